//! Typed stages, their composition, and the recipes that describe them.
