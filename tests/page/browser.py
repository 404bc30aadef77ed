"""A headless Chromium, as Debian packages it, driven by selenium."""

import contextlib
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dlkd_jax.page.server import PageSettings

# Two results a page, and as many queries as a test makes.
RELAXED = PageSettings(query_burst=1000, top=2, examples=('a tiny star', 'a red ball grows'))
FLAGS = (
  '--headless',
  '--no-sandbox',  # It runs as root in containers.
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  '--force-color-profile=srgb',
  '--hide-scrollbars',
  # There is a mouse.
  '--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4',
)


def _program(name: str) -> str:
  path = shutil.which(name) or f'/usr/bin/{name}'
  if not pathlib.Path(path).exists():
    pytest.skip(f'{path} is absent; install it with `apt-get install chromium chromium-driver`')
  return path


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
  """Starts a browser with an empty profile, or skips the test where there is none."""
  webdriver = pytest.importorskip('selenium.webdriver')
  binary, driver = _program('chromium'), _program('chromedriver')
  with tempfile.TemporaryDirectory() as profile:
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f'--user-data-dir={profile}'):
      options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
      yield browser
    finally:
      browser.quit()


def view(browser: Any, width: int, height: int, dark: bool = False, touch: bool = False) -> None:
  """Sets the size of the page, the colour scheme, and whether there is a mouse."""
  metrics = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': touch}
  browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
  scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
  browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [scheme]})


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
  """Waits until a condition holds and returns its value; fails with what was waited for."""
  end = time.monotonic() + seconds
  while True:
    value = None
    with contextlib.suppress(Exception):  # An element that is not there yet, or not any more.
      value = condition()
    if value:
      return value
    assert time.monotonic() < end, f'waited {seconds} s for {what}'
    time.sleep(0.05)


def complaints(browser: Any) -> list[str]:
  """What the browser wrote to its console: errors of scripts, refusals of the content security policy."""
  return [entry['message'] for entry in browser.get_log('browser') if entry['level'] == 'SEVERE']


def find(browser, selector):
  return browser.find_elements('css selector', selector)


def text(browser, selector):
  return browser.execute_script('return document.querySelector(arguments[0])?.innerText ?? ""', selector)


def rows(browser, count):
  until(lambda: len(find(browser, '.result:not(.skeleton)')) == count, f'{count} results')


def chips(browser):
  """What goes with the sentence."""
  return [' '.join(one.text.split()[:-1]) for one in find(browser, '.part')]  # Without the sign that removes it.


def active(browser):
  return browser.switch_to.active_element


def press(browser, *keys):
  for key in keys:
    active(browser).send_keys(key)


def playing(browser):
  """Waits until a video plays and returns the second at which it is."""
  script = "const v = document.querySelector('video'); return v && !v.paused && v.readyState > 2 ? v.currentTime : null"
  until(lambda: browser.execute_script(script) is not None, 'a video that plays')
  return browser.execute_script(script)
