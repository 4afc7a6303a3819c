//! Protocol model.
