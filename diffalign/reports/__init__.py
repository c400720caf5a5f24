"""Run folder -> one HTML page, and the before/after tables for the terminal. Imports no torch."""

from diffalign.reports.page import write_report
from diffalign.reports.pair_accuracy import bench_lines, bench_table, check_plot, held_out_table, save_calibration_plot
from diffalign.reports.people import people_table
from diffalign.reports.run_folder import RunReport, read_run, trains_reward
from diffalign.reports.scores import left_out_lines, score_histogram, score_table, set_table, unscored_lines
from diffalign.reports.selftests import selftest_table
from diffalign.reports.terminal import evaluation_table

__all__ = [
    "RunReport",
    "bench_lines",
    "bench_table",
    "check_plot",
    "evaluation_table",
    "held_out_table",
    "left_out_lines",
    "people_table",
    "read_run",
    "save_calibration_plot",
    "score_histogram",
    "score_table",
    "selftest_table",
    "set_table",
    "trains_reward",
    "unscored_lines",
    "write_report",
]
