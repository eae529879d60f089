"""The Airflow DAG's settings, and its steps as processes, without Airflow, of which the little that they use is made up.

python3 tests/python/dag.py; tests/it/house/scripts.rs runs it. The whole DAG under the real Airflow: `make test-airflow`.
"""

import contextlib
import importlib.util
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import types
import unittest
import unittest.mock

DAG = pathlib.Path(__file__).resolve().parent.parent.parent / "pipelines/airflow/scalingnote_daily.py"
sys.dont_write_bytecode = True


class AirflowException(Exception):
    pass


class AirflowFailException(AirflowException):
    pass


class BaseOperator:
    def __init__(self, *, do_xcom_push=True, **options):
        self.do_xcom_push = do_xcom_push


def imported(**environment):
    """The DAG's module; the DAG itself is not put together."""
    sdk = types.SimpleNamespace(BaseOperator=BaseOperator, TaskGroup=None, task=None, dag=lambda **_: lambda _: lambda: None)
    exceptions = types.SimpleNamespace(AirflowException=AirflowException, AirflowFailException=AirflowFailException)
    made_up = {"airflow": types.SimpleNamespace(sdk=sdk), "airflow.sdk": sdk, "airflow.sdk.exceptions": exceptions}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SCALINGNOTE")}
    with unittest.mock.patch.dict(sys.modules, made_up), unittest.mock.patch.dict(os.environ, {**kept, **environment}, clear=True):
        spec = importlib.util.spec_from_file_location("scalingnote_daily", DAG)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


class Dag(unittest.TestCase):
    def test_settings(self):
        known = imported(SCALINGNOTE_SHARES="8", SCALINGNOTE_CORPUS_SHARES="", SCALINGNOTE_PIPELINE="")
        self.assertEqual((known.SHARES, known.CORPUS_SHARES, known.RETRY_DELAY.seconds), (8, 1, 120))
        self.assertEqual((known.PROGRAM, known.PIPELINE[-10:]), ("scalingnote", "daily.toml"))
        for name, wrong in [
            ("SHARES", "0"), ("SHARES", "-4"), ("SHARES", "many"), ("CORPUS_SHARES", "0"), ("CORPUS_SHARES", "1.5"),
            ("RETRY_SECONDS", "-1"), ("RETRY_SECONDS", "2m"),
        ]:
            with self.subTest(name), self.assertRaisesRegex(ValueError, f"SCALINGNOTE_{name} must be .*{wrong}"):
                imported(**{f"SCALINGNOTE_{name}": wrong})

    def test_a_step_as_a_process(self):
        with tempfile.TemporaryDirectory(prefix="a folder ") as folder:
            program = pathlib.Path(folder) / "program"
            program.write_text("""#!/bin/sh
                case $1 in
                    say) echo "{\\"said\\": \\"$2 $3 $4\\"}" ;;
                    end) exit "$2" ;;
                    hang) exec sleep 60 ;;
                    stored) trap 'echo "$1" >>"$0.stored"; exit 130' TERM; while :; do sleep 0.05; done ;;
                    deaf) trap "" TERM; exec sleep 60 ;;
                esac
            """)
            program.chmod(0o755)
            module = imported(SCALINGNOTE=str(program))

            def step(*arguments, **options):
                return module.ProcessStep(arguments=list(arguments), **options)

            self.assertEqual(step("say", "--plan", share="0/2").execute({}), {"said": "--plan --share 0/2"})
            for code, fails, told in [
                ("1", True, "see `error:`"), ("2", True, "config check"), ("3", True, "a gate refused"),
                ("75", False, "transient"), ("130", False, "told to stop"), ("137", False, "memory"), ("9", False, "unknown"),
            ]:
                with self.assertRaisesRegex(AirflowException, f"exit code {code}: .*{told}") as raised:
                    step("end", code).execute({})
                self.assertEqual(isinstance(raised.exception, AirflowFailException), fails, code)
            # Told to stop, it stops, and is tried again.
            hanging = step("hang")
            threading.Thread(target=stop, args=(hanging,)).start()
            with self.assertRaisesRegex(AirflowException, "exit code 143: stopped by a signal"):
                hanging.execute({})
            # At its time limit it may store what it has; one that does not stop is killed.
            module.STOP_SECONDS = 2
            for command in ("stored", "deaf"):
                limited = step(command)
                with time_limit(1), self.assertRaises(TimeoutError):
                    limited.execute({})
                self.assertIsNotNone(limited.process.poll(), command)
            self.assertEqual(pathlib.Path(f"{program}.stored").read_text(), "stored\n")
            module.PROGRAM = f"{folder}/nowhere"
            with self.assertRaisesRegex(AirflowFailException, "nowhere.*SCALINGNOTE in the environment of the workers"):
                step("say").execute({})


@contextlib.contextmanager
def time_limit(seconds):
    """Raises after so many seconds, as Airflow does."""

    def over(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def stop(step):
    while step.process is None:
        time.sleep(0.01)
    step.on_kill()


if __name__ == "__main__":
    unittest.main()
