"""What makes the book: run the notebooks, stage pages, student's copies and decks, build the site.

Each is started from the root of the project: ``python -m book.tools.build.build_book``.
"""
