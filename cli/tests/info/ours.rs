//! Volumes that Arenite itself made and wrote, other block sizes among them, and the original on top of it.
