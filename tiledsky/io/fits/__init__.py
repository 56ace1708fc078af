"""FITS: headers, planes, compressed tiles, checksums, written while they are made."""
