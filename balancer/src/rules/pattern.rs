//! PURE. A text in which `*` stands for any characters, none included.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// All of `text` must fit. Each part between two stars is looked for where it first occurs: a later place could not
    /// make more room for those that follow.
    pub fn fits(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(first) else { return false };
        let (between, last) =
            rest.rsplit_once('*').map_or((None, rest), |(between, last)| (Some(between), last));
        for part in between.into_iter().flat_map(|between| between.split('*')) {
            let Some(at) = text.find(part) else { return false };
            text = &text[at + part.len()..];
        }
        text.ends_with(last)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("factory-*", "factory-7", true),
            ("factory-*", "factory", false),
            ("*.example.com", "eu.example.com", true),
            ("*.example.com", "example.com", false),
            ("a*a", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a**c", "abc", true),
            ("*b*b*", "b", false),
            ("ü*ß", "über-maß", true),
        ] {
            assert_eq!(Pattern::new(pattern).fits(text), expected, "{pattern} {text}");
        }
    }

    /// By trying every way.
    fn obviously_fits(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|skipped| obviously_fits(rest, &text[skipped..])),
            [one, rest @ ..] => text.first() == Some(one) && obviously_fits(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_way(pattern in "[ab*ü]{0,8}", text in "[abü]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Pattern::new(&*pattern).fits(&text), obviously_fits(&chars(&pattern), &chars(&text)));
        }
    }
}
