"""Result rows -> summaries -> charts and filter images -> one self-contained HTML page.

Nothing here knows of models or training: everything drawn comes from the rows, so a page can be
drawn again from the files that an experiment left.
"""

from weightcast.files import write_text
from weightcast_lab.report.charts import error_chart
from weightcast_lab.report.filters_chart import filter_images
from weightcast_lab.report.page import render_page, write_page
from weightcast_lab.report.summary import Summary, summarise, text_table
from weightcast_lab.report.terminal import tables
from weightcast_lab.report.write import write_report

__all__ = [
    "Summary",
    "error_chart",
    "filter_images",
    "render_page",
    "summarise",
    "tables",
    "text_table",
    "write_page",
    "write_report",
    "write_text",
]
