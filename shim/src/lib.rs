//! Host side of Arenite.
