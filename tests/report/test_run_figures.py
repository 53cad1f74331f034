from cl_ac.report.run_figures import panels
from cl_ac.report.run_tables import MOST_LINES


def test_few_groups_share_a_panel_and_many_stand_before_the_others(make_comparison):
    ((name, members),) = panels(make_comparison("A", "B"))
    assert name == ""
    assert [(group.label, colour) for group, colour in members] == [
        ("A", 0), ("A + sdn", 0), ("B", 1), ("B + sdn", 1)
    ]  # fmt: skip
    approaches = "ABCDE"
    comparison = make_comparison(*approaches)
    assert len(comparison.groups) > MOST_LINES
    found = list(panels(comparison))
    assert [name for name, _ in found] == list(approaches)
    for name, members in found:
        shown = [group.label for group, colour in members if colour is not None]
        assert shown == [name, f"{name} + sdn"]
        assert len(members) == len(comparison.groups)
