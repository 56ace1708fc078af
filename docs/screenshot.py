"""Make the picture of a report for the documentation: ``python docs/screenshot.py PAGE.html``, with Chromium."""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

OUT = Path(__file__).parent / "figures" / "report.png"
#: Size of the screen, and of the picture.
WIDTH, HEIGHT, SHOWN = 1180, 1320, 700


def main(page: Path) -> None:
    """Draw the upper end of a page."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("headless=new", "no-sandbox", "hide-scrollbars", f"window-size={WIDTH},1000"):
        options.add_argument(f"--{word}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(page.resolve().as_uri())
        WebDriverWait(driver, 60).until(
            lambda d: d.execute_script(
                "return 'ready' in document.documentElement.dataset && Bokeh.documents[0].is_idle"
            )
        )
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    finally:
        driver.quit()
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    small = picture.resize((SHOWN, round(SHOWN * HEIGHT / WIDTH)), Image.Resampling.LANCZOS)
    colors = small.quantize(256, Image.Quantize.MAXCOVERAGE)
    small.quantize(palette=colors, dither=Image.Dither.FLOYDSTEINBERG).save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
