"""Local polynomial fits of a mesh, averaged over bandwidths."""
