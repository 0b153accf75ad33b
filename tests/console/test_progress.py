"""What takes a while is shown as it is done, and goes on where nobody watches; codes that a phone reads."""

import asyncio
from collections.abc import Callable

import pytest

from ingress.console.progress import Followed
from ingress.console.qr import qr_code


async def test_what_is_shown_comes_before_the_work_is_done() -> None:
    go_on = asyncio.Event()

    async def work(show: Callable[[str], None]) -> int:
        show("first")
        await go_on.wait()
        show("second")
        return 7

    following, seen = Followed[str, int](work), list[str]()
    async for shown in following:
        seen.append(shown)
        go_on.set()
    assert seen == ["first", "second"]
    assert following.result() == 7


async def test_what_it_raises_comes_after_what_it_showed() -> None:
    async def work(show: Callable[[str], None]) -> int:
        show("first")
        raise LookupError

    following = Followed[str, int](work)
    assert [shown async for shown in following] == ["first"]
    with pytest.raises(LookupError):
        following.result()


async def test_it_goes_on_where_nobody_watches() -> None:
    """As a switch does, whose tab was closed."""
    go_on, done = asyncio.Event(), asyncio.Event()

    async def work(show: Callable[[str], None]) -> None:
        show("first")
        await go_on.wait()
        done.set()

    async for _ in Followed[str, None](work):
        break
    go_on.set()
    await asyncio.wait_for(done.wait(), 5)


def test_a_code_is_black_on_a_white_plate_with_its_quiet_zone() -> None:
    """Whatever the theme. What it is called is text, and nothing else."""
    code = qr_code("2@secret", 'Scan "me" <b>')
    assert 'fill="#fff" d="M0 0h' in code
    assert 'stroke="#000"' in code
    assert "M4 4.5h7" in code, "the first row begins below and beside four white modules"
    assert 'aria-label="Scan &#34;me&#34; &lt;b&gt;"' in code
    assert "style=" not in code
    assert "2@secret" not in code
