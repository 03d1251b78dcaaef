"""Tables of running it show what the benches have written."""

from __future__ import annotations

from bench.operation_tables import install_table, network_table, shadow_table, tutorial_table

ABOUT = {"machine": "m", "goal": "g"}


def test_the_network_s_table_says_how_much_was_sent_again_and_from_zero() -> None:
    shown = network_table(
        {
            **{"size": 100, "codec": "fp32", "mbit": 1.0, "cut_mb": 14.0, "seed": 0, **ABOUT},
            **{"completed": True, "seconds": 7000.0, "payload_bytes": 400_000_000, "resets": 57},
            **{"sent_again": 0.123, "mb_again_a_reset": 0.86, "from_zero": 1},
        }
    )
    assert shown.startswith("## An update of 400 MB at 1 Mbit/s, cut\n")
    assert "| seconds, base down and update up | 7,000 |" in shown
    assert "| seconds of the update alone, uncut | 3,200 |" in shown
    assert "| connections that were reset | 57 |" in shown
    assert "| sent beyond the update's bytes, percent | 12.3 |" in shown
    assert "| begun anew from byte 0 | 1 | 0 |" in shown


def test_the_tutorial_s_table_has_a_row_a_section() -> None:
    parts = {"Install": 60.0, "Each member trains": 26.4}
    shown = tutorial_table(
        {
            **{"commands": 31, "undocumented_steps": 0, "seconds": 110.3, "running_s": 99.0},
            **{"processor_s": 109.9, "sections_s": parts, **ABOUT},
        }
    )
    assert "| seconds in all | 110 | ≤ 600 |" in shown
    assert "| seconds of: Each member trains | 26 |" in shown


def test_the_table_of_sizes_has_a_row_an_extra() -> None:
    base = {"mb": 1148.1, "packages": 64, "largest": {"numpy": 71.4, "torch": 756.6}, "missing": []}
    extra = {"mb": 16.8, "packages": 1, "largest": {"h5py": 16.8}, "missing": []}
    shown = install_table({"extras": {"": base, "hdf5": extra}, **ABOUT})
    assert "| `gobelin` | 1148.1 | 64 | torch 756.6, numpy 71.4 |" in shown
    assert "| `[hdf5]` | +16.8 |" in shown


def test_the_shadow_s_table_leaves_out_what_was_not_measured() -> None:
    one = {"mean": 1.25, "sd": 0.5}
    bare = {
        **{"recipe": "toy", "rounds": 2, "local_steps": 3, "seeds": [0], "told": 0.5, **ABOUT},
        **dict.fromkeys(("outside", "public", "seen", "share"), one),
    }
    shown = shadow_table(bare)
    assert "as nodes tell it | " not in shown
    assert "waited" not in shown
    assert "| members whose shadow had time for a look, percent | 50 |" in shown
    full = dict.fromkeys(
        ("points", "today", "off_by", "round_s_off", "round_s_on", "waited_s"), one
    )
    shown = shadow_table({**bare, **full, "within_error": 0.75})
    assert "| premium, as nodes tell it | +1.25 ± 0.50 |" in shown
    assert "| of them within their own interval, percent | 75 |" in shown
    assert "| longest that a plan waited for a shadow, seconds | 1.25 ± 0.50 |" in shown
