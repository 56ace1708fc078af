#!/usr/bin/env bash
# Installs the browser that tests of pages use, where Debian's packages can be had; without it these tests are skipped.
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no chromium and chromedriver, and no way to install them: tests of pages in a browser are skipped"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
timeout 300 apt-get update -qq && timeout 600 apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null ||
  echo "chromium and chromium-driver could not be installed: tests of pages in a browser are skipped"
exit 0
