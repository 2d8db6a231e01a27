//! Enums of which each case has one word: in bodies, provider files, metrics or events.

/// Declares such an enum, with `ALL`, `as_str` and `from_word`; each case is written once, with its word.
macro_rules! words {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$about_case:meta])* $case:ident = $word:literal,)+ }) => {
        $(#[$about])*
        pub enum $name { $($(#[$about_case])* $case,)+ }

        impl $name {
            /// Every case, in the order in which they are declared.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$case),+];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$case => $word),+ }
            }

            /// The case that has a word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.as_str() == word)
            }
        }
    };
}

pub(crate) use words;
