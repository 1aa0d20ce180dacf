//! What makes an entry of the table of kinds: a struct of its parameters, and all that is told of it.

use super::parameter::{Lines, ParameterReference, Table};
use super::{Port, RecipeError};

/// What a kind of stage takes or gives, as the table says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Always this port.
    Port(Port),
    /// What is taken may be anything, and what is given is what the bodies give.
    Any,
}

#[expect(non_upper_case_globals, reason = "the table says a port by its name")]
impl Flow {
    pub(super) const Query: Self = Self::Port(Port::Query);
    pub(super) const Queries: Self = Self::Port(Port::Queries);
    pub(super) const Ranking: Self = Self::Port(Port::Ranking);
    pub(super) const Context: Self = Self::Port(Port::Context);
    pub(super) const Answer: Self = Self::Port(Port::Answer);
}

/// How many inputs a kind of stage takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arity {
    /// The fewest.
    pub least: usize,
    /// The most.
    pub most: usize,
}

impl Arity {
    pub(super) const ONE: Self = Self { least: 1, most: 1 };
    pub(super) const ONE_OR_MORE: Self = Self { least: 1, most: usize::MAX };
    pub(super) const TWO_OR_MORE: Self = Self { least: 2, most: usize::MAX };
}

impl std::fmt::Display for Arity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.least, self.most) {
            (1, 1) => f.write_str("one input"),
            (least, usize::MAX) => write!(f, "at least {least} input{}", if least == 1 { "" } else { "s" }),
            (least, most) => write!(f, "{least} to {most} inputs"),
        }
    }
}

/// What a kind of stage is made of; the table makes one of each entry.
pub(super) trait Kind: Sized {
    /// The parameters in a stage's table.
    fn read(table: &mut Table<'_>) -> Result<Self, RecipeError>;

    /// Their lines of canonical TOML.
    fn write(&self, lines: &mut Lines);

    /// What users may write.
    fn parameters() -> Vec<ParameterReference>;

    /// A parameter by its key.
    fn parameter_mut(&mut self, key: &str) -> Option<&mut dyn std::any::Any>;
}

/// The doc comment as text.
pub(super) fn text_of(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// The table of kinds; see `kinds.rs` for what an entry says.
macro_rules! kinds {
    ($(
        $(#[doc = $doc:literal])+
        $(#[derive($($derive:ident),+)])?
        $kind:ident($spec:ident) = $name:literal: $input:ident => $output:ident, $arity:ident, $part:ident,
        bodies [$($body:literal),*],
        needs { $( $(#[doc = $need_doc:literal])+ $need:ident: $need_type:ty $(, $need_limits:expr)?; )* }
        takes { $( $(#[doc = $param_doc:literal])+ $param:ident: $param_type:ty = $usual:expr $(, $limits:expr)?; )* }
    )+) => {
        /// A kind of stage with its parameters.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum StageSpec {
            $(
                #[doc = concat!("`", $name, "`: ", stringify!($input), " → ", stringify!($output), ".")]
                $kind($spec),
            )+
        }

        $(
            $(#[doc = $doc])+
            #[doc = ""]
            #[doc = concat!("The stage `", $name, "` of a recipe.")]
            #[derive(Clone, Debug, PartialEq $($(, $derive)+)?)]
            pub struct $spec {
                $(
                    $(#[doc = $need_doc])+
                    #[doc = ""]
                    #[doc = "Must be said."]
                    pub $need: $need_type,
                )*
                $(
                    $(#[doc = $param_doc])+
                    #[doc = ""]
                    #[doc = concat!("`", stringify!($usual), "` unless said.")]
                    pub $param: $param_type,
                )*
            }

            impl $spec {
                /// With the usual value of each parameter that has one.
                pub fn new($($need: $need_type),*) -> Self {
                    Self { $($need,)* $($param: $usual,)* }
                }
            }

            default_without_needs! { $spec; $($need)* }
            plain_without_bodies! { $spec: $input => $output; $($body)* }

            impl Kind for $spec {
                fn read(_table: &mut Table<'_>) -> Result<Self, RecipeError> {
                    $(
                        let limits = limits!($($need_limits)?);
                        let Some($need) = <$need_type as Parameter>::read(_table, stringify!($need), &limits)? else {
                            return Err(_table.missing(stringify!($need)));
                        };
                    )*
                    $(
                        let limits = limits!($($limits)?);
                        let $param = <$param_type as Parameter>::read(_table, key_of!($param), &limits)?;
                        let $param = $param.unwrap_or_else(|| $usual);
                    )*
                    Ok(Self { $($need,)* $($param,)* })
                }

                fn write(&self, _lines: &mut Lines) {
                    $(self.$need.write(stringify!($need), _lines);)*
                    $(self.$param.write(key_of!($param), _lines);)*
                }

                fn parameters() -> Vec<ParameterReference> {
                    let parameters: Vec<Vec<ParameterReference>> = vec![
                        $(<$need_type as Parameter>::describe(
                            stringify!($need), &text_of(&[$($need_doc),+]), &limits!($($need_limits)?), None,
                        ),)*
                        $(<$param_type as Parameter>::describe(
                            key_of!($param), &text_of(&[$($param_doc),+]), &limits!($($limits)?), Some(&$usual),
                        ),)*
                    ];
                    parameters.into_iter().flatten().collect()
                }

                fn parameter_mut(&mut self, _key: &str) -> Option<&mut dyn std::any::Any> {
                    $(if _key == stringify!($need) { return Some(&mut self.$need); })*
                    $(if _key == key_of!($param) { return Some(&mut self.$param); })*
                    None
                }
            }

            impl From<$spec> for StageSpec {
                fn from(spec: $spec) -> Self {
                    Self::$kind(spec)
                }
            }
        )+

        impl StageSpec {
            /// The kinds' names, as `use` takes them.
            pub const KINDS: [&'static str; [$($name),+].len()] = [$($name),+];

            /// The kind's name.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$kind(_) => $name),+ }
            }

            /// What each of its inputs must be; `None` when that may be anything.
            pub fn input(&self) -> Option<Port> {
                match (match self { $(Self::$kind(_) => Flow::$input),+ }) {
                    Flow::Port(port) => Some(port),
                    Flow::Any => None,
                }
            }

            /// What it gives; `None` when that is what its bodies give.
            pub fn output(&self) -> Option<Port> {
                match (match self { $(Self::$kind(_) => Flow::$output),+ }) {
                    Flow::Port(port) => Some(port),
                    Flow::Any => None,
                }
            }

            /// How many inputs it takes.
            pub fn arity(&self) -> Arity {
                match self { $(Self::$kind(_) => Arity::$arity),+ }
            }

            /// What it needs from outside.
            pub fn part(&self) -> PartKind {
                match self { $(Self::$kind(_) => PartKind::$part),+ }
            }

            /// The names of the recipes inside of it.
            pub fn bodies(&self) -> &'static [&'static str] {
                match self { $(Self::$kind(_) => &[$($body),*]),+ }
            }

            /// The parameter with this key, if the kind has one of this type.
            ///
            /// The parameter `k` is how many hits a stage gives.
            pub fn parameter_mut<T: 'static>(&mut self, key: &str) -> Option<&mut T> {
                match self { $(Self::$kind(spec) => spec.parameter_mut(key)),+ }?.downcast_mut()
            }

            /// The parameters in a table whose `use` is `kind`.
            pub(super) fn read(kind: &str, table: &mut Table<'_>) -> Result<Self, RecipeError> {
                match kind {
                    $($name => $spec::read(table).map(Self::$kind),)+
                    _ => unreachable!("`use` is one of the kinds"),
                }
            }

            /// The parameters' lines of canonical TOML.
            pub(super) fn write(&self, lines: &mut Lines) {
                match self { $(Self::$kind(spec) => spec.write(lines)),+ }
            }
        }

        impl KindReference {
            /// All kinds, in order of their names.
            pub fn all() -> Vec<Self> {
                let flow = |flow: Flow| match flow {
                    Flow::Port(port) => Some(port),
                    Flow::Any => None,
                };
                vec![$(Self {
                    name: $name,
                    doc: text_of(&[$($doc),+]),
                    input: flow(Flow::$input),
                    output: flow(Flow::$output),
                    arity: Arity::$arity,
                    bodies: &[$($body),*],
                    parameters: $spec::parameters(),
                }),+]
            }
        }
    };
}
pub(super) use kinds;

/// A struct that needs nothing has a default.
macro_rules! default_without_needs {
    ($spec:ident;) => {
        impl Default for $spec {
            fn default() -> Self {
                Self::new()
            }
        }
    };
    ($spec:ident; $($need:ident)+) => {};
}
pub(super) use default_without_needs;

/// A kind without recipes inside of it has the same ports always, so that they can be types.
macro_rules! plain_without_bodies {
    ($spec:ident: $input:ident => $output:ident;) => {
        impl $crate::recipe::builder::PlainSpec for $spec {
            type In = $crate::recipe::builder::ports::$input;
            type Out = $crate::recipe::builder::ports::$output;
        }
    };
    ($spec:ident: $input:ident => $output:ident; $($body:literal)+) => {};
}
pub(super) use plain_without_bodies;

/// Limits as an entry gives them, or none.
macro_rules! limits {
    () => {
        ()
    };
    ($limits:expr) => {
        $limits
    };
}
pub(super) use limits;

/// The key of a field: its name, but for what Rust does not let be a name.
macro_rules! key_of {
    (fusion) => {
        "method"
    };
    ($param:ident) => {
        stringify!($param)
    };
}
pub(super) use key_of;
