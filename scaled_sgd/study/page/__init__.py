"""The report of a study: a page, a short text, and the files of its figures."""
