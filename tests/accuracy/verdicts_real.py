"""Verdicts on backgrounds of real images beside a list that was written by looking at them, before any was known.

    TILEDSKY_TEST_DATA=FOLDER python -m tests.accuracy.verdicts_real [--only gama]

Each image was looked at with its four backgrounds at the image's own scale, and with the image minus each, in means of
8 x 8 px at half the noise of a pixel up and down. Bad: light of an object, a halo or a crowd lies in the background, or
structure of the sky is left. What could not be told by eye is not in the list.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from tests.accuracy.real import NoData, read_image
from tests.accuracy.scene import Image
from tiledsky import estimate_background
from tiledsky.diagnostics import measure
from tiledsky.errors import TiledSkyError

RECIPES = ("deep-sky", "complex-sky", "extended-light", "sextractor")
_PART = slice(900, 1800)
#: File, extension and part of each image; by eye, for each of the `RECIPES`: g(ood), b(ad), - not told.
IMAGES = {
    "ZTF": ("ztf_000655_zr_c13_q3_sci.fits", 0, np.s_[1000:1900, 1200:2100], "-b--"),
    "DES": ("des_241238_01.fits.fz", 1, np.s_[2200:3100, 500:1400], "gbgg"),
    "DES, first rows": ("des_241238_01.fits.fz", 1, np.s_[:900, :900], "gbgg"),
    "Spitzer, Galactic plane": ("spitzer_glimpse_irac.fits", 0, np.s_[:, :], "bbbb"),
    "M67": ("dss_m67_M6707HH.fits", 0, np.s_[:900, :900], "bbbb"),
    "Horsehead": ("dss_horsehead.fits", 0, np.s_[:, :], "bbbb"),
    "2MASS, Galactic centre": ("2mass_gc_k.fits", 0, np.s_[:, :], "bbbb"),
    "Bolocam, Galactic plane": ("bolocam_gc.fits", 0, np.s_[:, :], "bbbb"),
    "47 Tuc": ("hst_acs_hrc_47tuc_flt.fits", 1, np.s_[:900, :900], "bb-b"),
    "Abell 478": ("hst_wfpc2_a478_drz.fits", 1, np.s_[:, :], "gb-b"),
    "GAMA r": ("gama_kidsviking_r_2600.fits", 1, (_PART, _PART), "gbg-"),
    "GAMA Ks": ("gama_kidsviking_Ks_2600.fits", 1, (_PART, _PART), "gb--"),
    "Herschel": ("herschel_spire_plw.fits.gz", 1, np.s_[:, :], "----"),
    "NTT": ("sep_ntt_image.fits", 0, np.s_[:, :], "gg--"),
    "SDSS, reprojected": ("sdss_g_reprojected.fits.bz2", 0, np.s_[:, :], "-bbb"),
    "M51": ("m51_kpno.fits", 0, np.s_[:, :], "-b-b"),
}
_WORDS = {"g": "good", "b": "bad", "-": "-"}


def verdict_on(image: Image, recipe: str) -> tuple[str, str]:
    """Verdict, and the checks that decided it."""
    try:
        sky = estimate_background(image, recipe)
    except TiledSkyError as error:
        return "refused", str(error).splitlines()[0]
    found = measure(image, sky.background, sky.mask, rms=sky.background_rms, objects=sky.objects)["verdict"]
    said = [c["name"] for c in found["checks"] if c["result"] == found["result"] != "pass"]
    return found["result"], ", ".join(said)


def agrees(eye: str, verdict: str) -> bool:
    """Whether a verdict is not the contrary of what was seen: a warning never is."""
    return verdict != {"g": "fail", "b": "pass"}[eye]


def table(only: str) -> Iterator[str]:
    """Lines of the table, and how often they agree."""
    yield "| image | recipe | by eye | verdict | decided by |\n|---|---|---|---|---|"
    told = []
    for name, (file, extension, part, eyes) in IMAGES.items():
        if not name.startswith(only):
            continue
        try:
            image = np.ascontiguousarray(read_image(file, extension)[part], np.float32)
        except NoData as reason:
            yield f"{name} left out: {reason}"
            continue
        for recipe, eye in zip(RECIPES, eyes, strict=True):
            verdict, said = verdict_on(image, recipe)
            if eye != "-":
                told.append(agrees(eye, verdict))
            mark = "" if eye == "-" or told[-1] else " (disagrees)"
            yield f"| {name} | {recipe} | {_WORDS[eye]} | {verdict}{mark} | {said} |"
    yield f"\nVerdict and eye agree on {sum(told)} of {len(told)}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="images whose names begin so")
    for line in table(parser.parse_args().only):
        print(line, flush=True)
