from cl_ac.efficiency.greedy import greedy


def test_each_step_takes_the_least_price_worked_by_hand():
    """Two levels of each; errors add up, but the second of b is paid for by a."""
    errors = {"a": [0, 3, 4], "b": [0, 1, 9]}

    def outcome(levels):
        both = 4 if levels == {"a": 1, "b": 2} else 0
        return sum(errors[name][level] for name, level in levels.items()) - both

    def raised(name, level):
        return level + 1 if level < 2 else None

    steps = list(greedy({"a": 0, "b": 0}, raised, outcome, lambda now, then: then - now))
    # a costs 3 and b 1; then a 3 and b 8; then a 1 and b 4; then b 8.
    assert steps == [
        ({"a": 0, "b": 0}, 0),
        ({"a": 0, "b": 1}, 1),
        ({"a": 1, "b": 1}, 4),
        ({"a": 2, "b": 1}, 5),
        ({"a": 2, "b": 2}, 13),
    ]


def test_the_price_may_be_by_what_is_gained():
    """An error of 4 for a gain of 4 is a better price than 2 for 1."""
    outcomes = {(0, 0): (0, 0), (1, 0): (4, 4), (0, 1): (1, 2), (1, 1): (5, 6)}

    def outcome(levels):
        return outcomes[levels["a"], levels["b"]]

    def price(now, then):
        return (then[1] - now[1]) / (then[0] - now[0])

    steps = greedy({"a": 0, "b": 0}, lambda name, level: 1 if level == 0 else None, outcome, price)
    assert [levels for levels, _ in steps] == [{"a": 0, "b": 0}, {"a": 1, "b": 0}, {"a": 1, "b": 1}]


def test_nothing_to_raise_is_the_start_alone():
    assert list(greedy({"a": 1}, lambda name, level: None, lambda levels: 0.5, max)) == [({"a": 1}, 0.5)]
