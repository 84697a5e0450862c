"""The command line: joins the other packages, and is the only place that prints."""

from benchmarks.cli.app import main as main
