"""Pictures of runs: the report of a run, several runs side by side, a page to pan and zoom, figures for papers.

matplotlib and Bokeh are imported here alone, and only when something is drawn.
"""

from tiledsky.report.compare import write_comparison
from tiledsky.report.html import imprint, imprint_of, report_path, save_figures, write_report
from tiledsky.report.imviz import to_imviz

__all__ = ["imprint", "imprint_of", "report_path", "save_figures", "to_imviz", "write_comparison", "write_report"]
