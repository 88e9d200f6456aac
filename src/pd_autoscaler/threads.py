"""The one owner of threads: runs blocking calls under a deadline; a hung call keeps its slot."""
