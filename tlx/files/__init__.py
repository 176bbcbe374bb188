"""Files in and out: checked reading of documents, durable writing, locks, bounded patterns, the hash of a user's code.

Nothing here knows models, data or runs, and nothing named by a file is imported or executed.
"""
