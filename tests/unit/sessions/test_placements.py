"""What a placement and the wrappers above leave out of a chain, and who hears why (VAST 4.3 §2.3.6, §3.19.2)."""

from __future__ import annotations

import pytest
from chains import fired, ids, resolve
from vast_documents import LINEAR, Reply, inline, vast, wrapper

from adgovernor.video import Expectations, VastError


async def test_a_blocked_category_is_205() -> None:
    """An InLine in a category that a Wrapper above blocks is refused, and its own Error hears it (§3.19.2)."""
    outer = wrapper(
        "w", "b.xml", extra='<BlockedAdCategories authority="iab.example">7, 8</BlockedAdCategories>'
    )
    category = '<Category authority="iab.example">8</Category>'
    found = await resolve({"a.xml": vast(outer), "b.xml": vast(inline("1", extra=category))})
    assert fired(found) == [(205, ["http://e/w?205", "http://e/1?205"])]
    other = '<Category authority="another.example">8</Category>'
    assert ids(await resolve({"a.xml": vast(outer), "b.xml": vast(inline("1", extra=other))}))[0] == ["1"]


@pytest.mark.parametrize(
    ("blocking", "blocked"),
    [
        ("", ' authority="iab.example"'),
        (' authority="iab.example"', ""),
        (' authority="https://IAB.example/"', ' authority="https://iab.example"'),
    ],
)
async def test_a_category_of_the_same_list_or_of_none_is_blocked(blocking: str, blocked: str) -> None:
    """Where the Wrapper or the ad names no list an equal code is the blocked one; addresses of one list are alike."""
    outer = wrapper("w", "b.xml", extra=f"<BlockedAdCategories{blocking}>8</BlockedAdCategories>")
    category = f"<Category{blocked}>8</Category>"
    found = await resolve({"a.xml": vast(outer), "b.xml": vast(inline("1", extra=category))})
    assert [code for code, _ in fired(found)] == [VastError.CATEGORY_BLOCKED]


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        (Expectations(require_category=True), VastError.CATEGORY_REQUIRED),
        (Expectations(linearity="nonlinear"), VastError.LINEARITY),
        (Expectations(max_duration_ms=9_999), VastError.DURATION),
        (Expectations(require_mezzanine=True), VastError.MEZZANINE_REQUIRED),
        (Expectations(media_types=frozenset({"video/mp4"})), VastError.MEDIA_UNSUPPORTED),
    ],
)
async def test_an_ad_that_the_placement_cannot_use_hears_why(expected: Expectations, code: VastError) -> None:
    """An ad that misses an expectation is left out with that expectation's code."""
    found = await resolve({"a.xml": vast(inline("1"))}, expected=expected)
    assert fired(found) == [(int(code), [f"http://e/1?{int(code)}"])]


async def test_an_ad_as_long_as_is_allowed_plays() -> None:
    """The longest duration is allowed itself."""
    expected = Expectations(max_duration_ms=10_000)
    found = await resolve({"a.xml": vast(inline("1"))}, expected=expected)
    assert (ids(found)[1], found.ads[0].duration_ms) == (["1"], 10_000)


@pytest.mark.parametrize("conditional", ["InLine", "Wrapper"])
async def test_a_conditional_ad_is_408_where_none_is_accepted(conditional: str) -> None:
    """A conditional ad, or one behind a conditional Wrapper, plays unless the placement cannot take it."""
    documents = {"Wrapper": vast(wrapper("w", "b.xml")), "InLine": vast(inline("1"))}
    documents[conditional] = documents[conditional].replace(b"<Ad ", b'<Ad conditionalAd="true" ')
    replies: dict[str, Reply] = {"a.xml": documents["Wrapper"], "b.xml": documents["InLine"]}
    assert ids(await resolve(replies))[1] == ["1"]
    found = await resolve(replies, expected=Expectations(accept_conditional=False))
    assert fired(found) == [(408, ["http://e/w?408", "http://e/1?408"])]


async def test_an_overlay_too_large_is_203() -> None:
    """A placement for overlays refuses one that exceeds it."""
    overlay = '<Creative><NonLinearAds><NonLinear width="900" height="90"/></NonLinearAds></Creative>'
    wanted = Expectations(linearity="nonlinear", max_width=480)
    found = await resolve({"a.xml": vast(inline("1", creatives=overlay))}, expected=wanted)
    assert [code for code, _ in fired(found)] == [203]


async def test_what_fits_is_accepted() -> None:
    """An ad that meets every expectation plays."""
    media = f'{LINEAR[:-20]}<MediaFiles><MediaFile type="video/mp4">http://m</MediaFile></MediaFiles></Linear></Creative>'
    wanted = Expectations(linearity="linear", max_duration_ms=10_000, media_types=frozenset({"video/mp4"}))
    found = await resolve({"a.xml": vast(inline("1", creatives=media))}, expected=wanted)
    assert ids(found)[1] == ["1"]
