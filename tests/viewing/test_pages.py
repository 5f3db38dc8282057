"""A page is one file that asks nothing of a network and shows names as they are."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from i2p_zoo.viewing import view_cloud, write_page

pytest.importorskip("plotly")


class Page(HTMLParser):
    """The tags of a page that fetch, and its text outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.tags, self.words, self.ignored = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for key, value in attributes if key in ("src", "href", "data", "srcset")]
        self.ignored += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.ignored -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.ignored:
            self.words.append(data.strip())


def test_page_is_one_file_with_the_summary_and_fetches_nothing(classifier, tmp_path):
    view = view_cloud(np.random.default_rng(0).standard_normal((200, 3)), classifier, title="a <script>alert(1)</script> chair")
    write_page(tmp_path / "page.html", view)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.fetched == []
    assert page.tags.count("h1") == 1
    assert "a <script>alert(1)</script> chair" in page.words
    assert any(word.startswith(view.summary()) for word in page.words)
    assert "<b>table</b>" in view.summary()
    assert "b" not in page.tags
    assert text.count("plotly.js v") == 1


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    view = view_cloud(np.eye(3))
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match=r"page\.html"):
        write_page(tmp_path / "page.html", view)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
