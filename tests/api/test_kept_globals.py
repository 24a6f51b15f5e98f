"""What a script's initializer sets is there for its jobs, as with ProcessPoolExecutor."""

import textwrap
from pathlib import Path

import pytest

from tests.support import run_python

# Each is a script's beginning; `job` is called in workers that `start` has prepared.
SETS_A_GLOBAL = """
    model = None

    def start(value):
        global model
        model = value

    def job():
        return model
"""
ADDS_A_NAME = """
    def start(value):
        global model
        model = value

    def job():
        return model
"""
FILLS_A_DICT = """
    models = {"all": {}}

    def start(value):
        models["all"]["mine"] = value

    def job():
        return models["all"].get("mine")
"""
THROUGH_OTHERS = """
    import functools

    model = None

    class Loader:
        def load(self, value):
            remember(value)

    def remember(value):
        global model
        model = value

    def traced(function):
        @functools.wraps(function)
        def call(*args):
            return function(*args)
        return call

    loader = Loader()

    @traced
    def start(value):
        loader.load(value)

    def job():
        return (lambda: model)()
"""
OF_A_CLASS = """
    class Worker:
        model = None
        seen = []

        @classmethod
        def start(cls, value):
            cls.model = value
            cls.seen.append(value)

        @classmethod
        def ask(cls):
            assert cls.seen == [cls.model], cls.seen
            return cls.model

    start, job = Worker.start, Worker.ask
"""
OF_AN_INSTANCE = """
    class State:
        model = None

        def start(self, value):
            self.model = value

    state = State()

    def start(value):
        state.start(value)

    def job():
        return state.model
"""
A_PARTIAL_OF_AN_INSTANCE = """
    import functools

    class Setup:
        def __call__(self, add, value):
            global model
            model = value + add

    start = functools.partial(Setup(), 0)

    def job():
        return model
"""
WAYS = {
    "sets a global": SETS_A_GLOBAL,
    "adds a name": ADDS_A_NAME,
    "fills a dict": FILLS_A_DICT,
    "through others": THROUGH_OTHERS,
    "of a class": OF_A_CLASS,
    "of an instance": OF_AN_INSTANCE,
    "a partial of an instance": A_PARTIAL_OF_AN_INSTANCE,
}


def run_script(tmp_path: Path, *parts: str) -> str:
    script = tmp_path / "script.py"
    script.write_text("\n".join(textwrap.dedent(part) for part in parts))
    done = run_python(str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", WAYS)
def test_jobs_see_what_the_initializer_has_set(tmp_path: Path, start_method: str, way: str) -> None:
    use = f"""
    from mpengine import Engine

    with Engine(2, mp_context={start_method!r}, initializer=start, initargs=(7,)) as engine:
        print([engine.submit(job).result() for _ in range(3)], set(engine.map(lambda _: job(), range(100))))
        print("and after a recycling")
    with Engine(1, mp_context={start_method!r}, initializer=start, initargs=(8,), max_tasks_per_child=1) as engine:
        print([engine.submit(job).result() for _ in range(3)])
    """
    assert run_script(tmp_path, WAYS[way], use) == "[7, 7, 7] {7}\nand after a recycling\n[8, 8, 8]\n"


def test_all_else_is_as_it_was_when_the_job_was_submitted(tmp_path: Path, start_method: str) -> None:
    """What the initializer has only read, and functions and classes that are defined anew."""
    script = f"""
    from mpengine import Engine

    level, factor, elsewhere = 1, 1, {{}}

    class Shape:
        sides = 3

    def helper():
        return "old"

    def start():
        global prepared
        assert level == 1 and helper() == "old" and Shape.sides == 3
        prepared = True

    def job():
        return prepared, level, factor, helper(), Shape.sides, elsewhere

    with Engine(1, mp_context={start_method!r}, initializer=start) as engine:
        print(engine.submit(job).result())
        level, factor, elsewhere["n"] = 2, 3, 4

        class Shape:
            sides = 4

        def helper():
            return "new"

        print(engine.submit(job).result())
    """
    assert run_script(tmp_path, script) == "(True, 1, 1, 'old', 3, {})\n(True, 2, 3, 'new', 4, {'n': 4})\n"


def test_a_module_registered_to_travel_by_value(tmp_path: Path, start_method: str) -> None:
    (tmp_path / "helpers.py").write_text(textwrap.dedent(SETS_A_GLOBAL))
    script = f"""
    import cloudpickle, helpers
    from mpengine import Engine

    cloudpickle.register_pickle_by_value(helpers)
    with Engine(1, mp_context={start_method!r}, initializer=helpers.start, initargs=(7,)) as engine:
        print(engine.submit(helpers.job).result(), helpers.model)
    """
    assert run_script(tmp_path, script) == "7 None\n"


def test_an_initializer_that_raises_leaves_no_frame_of_the_engine(tmp_path: Path) -> None:
    script = """
    import traceback
    from mpengine import Engine, EngineBroken

    def start():
        raise KeyError("no such model")

    with Engine(1, initializer=start) as engine:
        try:
            engine.submit(print).result()
        except EngineBroken as error:
            print("".join(traceback.format_exception(error.__cause__)))
    """
    printed = run_script(tmp_path, script)
    assert "no such model" in printed
    assert "in start" in printed
    assert "kept_globals" not in printed
    assert "contextlib" not in printed
