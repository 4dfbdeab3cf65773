"""A page in a real browser."""

from pathlib import Path


class Seen:
    """A page that is open, and what it said and asked for."""

    def __init__(self, browser, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.ready === 'true'", timeout=60_000)

    def fine(self, path: Path) -> None:
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]

    def column(self, number: int) -> list[str]:
        return self.page.locator(f"#accuracy tbody tr > :nth-child({number})").all_text_contents()
