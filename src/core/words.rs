//! Enums with named values: one table each for configuration, schema, labels and messages.

/// An enum with a name for each value, defined with `words!`.
pub trait Words: Copy + 'static {
    /// The name of the type in the configuration schema.
    const KIND: &'static str;
    /// The documentation of the enum, verbatim.
    const ABOUT: &'static str;
    /// Every value, with its name and its documentation.
    const TABLE: &'static [(Self, &'static str, &'static str)];
    /// Every name, in the same order.
    const NAMES: &'static [&'static str];

    /// The names as a list for messages: `a, b or c`.
    fn choices() -> String {
        match Self::NAMES {
            [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
            names => names.concat(),
        }
    }

    /// Every value.
    fn all() -> impl Iterator<Item = Self> {
        Self::TABLE.iter().map(|(value, ..)| *value)
    }

    /// The value with this name (case-sensitive).
    fn named(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|(_, it, _)| *it == name).map(|(value, ..)| *value)
    }
}

/// Defines an enum with named values, and implements [`Words`] for it. The word after `as` is the
/// name of the type in the configuration schema.
#[macro_export]
macro_rules! words {
    (
        $(#[doc = $about:literal])*
        $(#[default($default:ident)])?
        $(#[expect($($lint:tt)*)])?
        $vis:vis enum $enum:ident as $kind:literal {
            $($(#[doc = $meaning:literal])* $value:ident = $name:literal,)+
        }
    ) => {
        $(#[doc = $about])*
        $(#[expect($($lint)*)])?
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $enum {
            $($(#[doc = $meaning])* $value,)+
        }

        impl $enum {
            /// The name in the configuration.
            $vis const fn name(self) -> &'static str {
                match self { $(Self::$value => $name,)+ }
            }
        }

        impl ::std::fmt::Display for $enum {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.name())
            }
        }

        $(impl Default for $enum {
            fn default() -> Self {
                Self::$default
            }
        })?

        impl $crate::words::Words for $enum {
            const KIND: &'static str = $kind;
            const ABOUT: &'static str = concat!($($about, "\n",)*);
            const TABLE: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$value, $name, concat!($($meaning, "\n",)*)),)+];
            const NAMES: &'static [&'static str] = &[$($name,)+];
        }
    };
}

pub use words;

#[cfg(test)]
mod tests {
    use super::*;

    words! {
        /// How loud it is.
        #[default(Quiet)]
        enum Loudness as "Volume" {
            /// It can be
            /// heard.
            Quiet = "quiet",
            /// It hurts.
            TooLoud = "too_loud",
        }
    }

    #[test]
    fn a_value_has_one_name_everywhere() {
        for (value, name) in [(Loudness::Quiet, "quiet"), (Loudness::TooLoud, "too_loud")] {
            assert_eq!((value.name(), value.to_string()), (name, name.to_owned()));
            assert_eq!(Loudness::named(name), Some(value));
        }
        for odd in ["", "Quiet", "TooLoud", "too-loud", "quiet "] {
            assert_eq!(Loudness::named(odd), None, "{odd}");
        }
        assert!(Loudness::all().eq([Loudness::Quiet, Loudness::TooLoud]));
        assert_eq!(Loudness::NAMES, ["quiet", "too_loud"]);
        assert_eq!(Loudness::default(), Loudness::Quiet);
    }

    words! {
        enum Alone as "Alone" {
            One = "one",
        }
    }

    words! {
        enum Three as "Three" {
            A = "a",
            B = "b",
            C = "c",
        }
    }

    #[test]
    fn a_message_lists_the_choices() {
        let choices = [Alone::choices(), Loudness::choices(), Three::choices()];
        assert_eq!(choices, ["one", "quiet or too_loud", "a, b or c"]);
    }

    #[test]
    fn what_is_documented_is_told() {
        assert_eq!((Loudness::KIND, Loudness::ABOUT), ("Volume", " How loud it is.\n"));
        let quiet = (Loudness::Quiet, "quiet", " It can be\n heard.\n");
        assert_eq!(Loudness::TABLE, [quiet, (Loudness::TooLoud, "too_loud", " It hurts.\n")]);
    }
}
