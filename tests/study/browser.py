"""What a real browser makes of a page."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=5000",
)  # fmt: skip
_LISTENER = """<script>
addEventListener("message", (event) => {
  const probe = document.createElement("pre");
  probe.className = "probe";
  probe.textContent = event.data;
  document.body.append(probe);
});
</script>"""
_PROBE = """<script>
addEventListener("load", async () => {
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  const box = (element) => element.getBoundingClientRect();
  const seen = (element) => element && element.checkVisibility() && box(element).height > 0;
  parent.postMessage(JSON.stringify({
    viewport: innerWidth,
    overflow: document.documentElement.scrollWidth - innerWidth,
    escaping: [...document.querySelectorAll("body *")].filter((element) =>
      !element.closest(".scroll") && box(element).right > innerWidth + 0.5).map((element) => element.tagName),
    images: [...document.images].map((image) => [image.naturalWidth, image.naturalHeight, box(image).width,
      image.alt.length]),
    sentences: [...document.querySelectorAll("section[id]")].map((section) =>
      seen(section.querySelector(".shows")) ? section.querySelector(".shows").textContent : ""),
    resources: performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 60)),
    scripts: document.scripts.length,
  }), "*");
});
</script>"""


@dataclass(frozen=True)
class Seen:
    """What the page is in windows of several widths.

    Attributes:
        facts: of every width, see the probe.
        console: lines that were written to the console.
    """

    facts: dict[int, dict[str, Any]]
    console: list[str]


def look(page: Path, *, widths: Sequence[int], folder: Path) -> Seen:
    """Open a copy of ``page`` that says what it is, in frames of these widths: windows have a least one."""
    text = page.read_text(encoding="utf-8")
    policy = "default-src 'none'"
    assert text.count(policy) == 1
    text = text.replace(policy, f"{policy}; script-src 'unsafe-inline'")
    folder.mkdir()
    (folder / "page.html").write_text(text.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    frames = "".join(f'<iframe src="page.html" width="{width}" height="900"></iframe>' for width in widths)
    around = folder / "around.html"
    around.write_text(f"<!DOCTYPE html><meta charset=utf-8>{_LISTENER}{frames}", encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [str(BROWSER), *_FLAGS, profile, "--dump-dom", around.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    probes = re.findall(r'<pre class="probe">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    facts = [json.loads(unescape(probe)) for probe in probes]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen({one["viewport"]: one for one in facts}, console)
