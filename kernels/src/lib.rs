//! Numeric kernels of raglan: one folder an operation, each with a plain reference and fast forms.
