"""The examples that a problem shows are read; anything that is more than a call on literals is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.examples import Example, examples_in


def prompt(*lines: str) -> str:
    shown = "\n".join(f"    {line}" for line in lines)
    return f'def f(x, y=0):\n    """Do it.\n{shown}\n    """\n'


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("f(1) -> 2", "2"),
        ("f(1) => True", "True"),
        ("f(1) ==> [1, 2]", "[1, 2]"),
        ("f(1) == 'a b'", "'a b'"),
        ("f(1)==None", "None"),
        ("f(1) = -3", "-3"),
        ("f(1) should return {'a': (1, 2)}.", "{'a': (1, 2)}"),
        ("f(1) returns 2 (two, that is)", "2"),
        ("f(1) # => 'Yes'", "'Yes'"),
        ("f(1) -> true", "True"),
        ("* For example f(1) -> 2, and so on", "2"),
        (">>> f(1) == 2", "2"),
    ],
)
def test_a_line_that_shows_a_value_is_an_example(line: str, want: str):
    assert examples_in(prompt(line), "f") == (Example("f(1)", want),)


def test_a_doctest_is_an_example():
    assert examples_in(prompt(">>> f([1.0, 2.0], y='a')", "3.5"), "f") == (Example("f([1.0, 2.0], y='a')", "3.5"),)


def test_a_builtin_around_the_call_is_kept():
    assert examples_in(prompt(">>> round(f([1, 2]), 2)", "-0.5"), "f") == (Example("round(f([1, 2]), 2)", "-0.5"),)


@pytest.mark.parametrize(
    "line",
    [
        "f(a) -> 2",
        "f(1) -> g(2)",
        "f(1) -> 1 + 2 = 3",
        "f(__import__('os').getpid()) -> 2",
        "f(open('x')) -> 2",
        "eval(f(1)) -> 2",
        "f(9 ** 9 ** 9) -> 1",
        "f([x for x in 'a']) -> 1",
        "self.f(1) -> 2",
        "f(1) and more",
        "f(1",
    ],
)
def test_what_is_more_than_a_call_on_literals_is_no_example(line: str):
    assert examples_in(prompt(line), "f") == ()


def test_examples_of_helper_functions_are_not_read():
    assert examples_in('def g(x):\n    """f(1) -> 1"""\n\n\n' + prompt("f(2) -> 3"), "f") == (Example("f(2)", "3"),)


def test_a_prompt_that_is_no_python_is_read_as_text():
    assert examples_in("Write f so that f(1) == 2.", "f") == (Example("f(1)", "2"),)


def test_each_example_is_taken_once_and_sixteen_at_most():
    assert len(examples_in(prompt(*[f"f({i}) -> 1" for i in range(30)], "f(0) -> 1"), "f")) == 16


def test_a_check_asserts_the_example_of_the_candidate():
    names: dict[str, object] = {}
    exec(Example("round(f(2, y=1), 1)", "0.3").check("f"), names)
    check = names["check"]
    assert callable(check)
    check(lambda x, y: 0.10000000004 + 0.1 * x * y)
    with pytest.raises(AssertionError):
        check(lambda x, y: 0.2 * x * y)


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str):
    examples_in(prompt(text), "f")
    examples_in(text + " f(1) -> " + text, "f")
