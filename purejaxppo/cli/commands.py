"""The commands by name. A new command is a module with a dataclass of options and a function, and a line here."""

from purejaxppo.cli.bench_command import Bench, run_bench
from purejaxppo.cli.compare_command import Compare, run_compare
from purejaxppo.cli.configs_command import Configs, run_configs
from purejaxppo.cli.doctor_command import Doctor, run_doctor
from purejaxppo.cli.envs_command import Envs, run_envs
from purejaxppo.cli.evaluate_command import Evaluate, run_evaluate
from purejaxppo.cli.options import Command
from purejaxppo.cli.render_command import Render, run_render
from purejaxppo.cli.report_command import Report, run_report
from purejaxppo.cli.resume_command import Resume, run_resume
from purejaxppo.cli.sweep_command import SweepCommand, run_sweep_command
from purejaxppo.cli.train_command import Train, run_train

COMMANDS = {
    "train": Command(Train, run_train),
    "resume": Command(Resume, run_resume),
    "sweep": Command(SweepCommand, run_sweep_command),
    "report": Command(Report, run_report),
    "compare": Command(Compare, run_compare),
    "evaluate": Command(Evaluate, run_evaluate),
    "render": Command(Render, run_render),
    "doctor": Command(Doctor, run_doctor),
    "envs": Command(Envs, run_envs),
    "configs": Command(Configs, run_configs),
    "bench": Command(Bench, run_bench),
}
