//! Files of lines: blanks around, empty lines and `#` comments do not count; what is wrong is told by its number. And the
//! lines of password files, `user:record`. Pure.

use zeroize::Zeroizing;

/// Longest name of a user.
const LONGEST_NAME: usize = 256;

/// The lines that say something, trimmed, with their numbers.
pub fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A name that can stand in front of a colon.
pub fn check_name(user: &str) -> Result<&str, &'static str> {
    match user {
        "" => Err("the user's name is empty"),
        _ if user.len() > LONGEST_NAME => Err("the user's name is too long"),
        _ if user.contains(':') || user.chars().any(char::is_control) => {
            Err("the user's name has a colon or a control character")
        }
        _ if user.trim() != user || user.starts_with('#') => {
            Err("the user's name begins with `#`, or has blanks around it")
        }
        _ => Ok(user),
    }
}

/// The file's text with this user's record in place of what it was, or without the user; every other line as it was.
/// `None`: there was nothing to remove.
pub fn edited(text: &str, user: &str, record: Option<&str>) -> Option<Zeroizing<String>> {
    let is_theirs = |line: &str| {
        let line = line.trim();
        !line.starts_with('#') && line.split_once(':').is_some_and(|(name, _)| name == user)
    };
    // Room for all of it, so that no half-grown copies are left behind.
    let room = text.len() + user.len() + record.map_or(0, str::len) + 8;
    let mut edited = Zeroizing::new(String::with_capacity(room));
    let mut done = false;
    let mut write = |line: &str| {
        edited.push_str(line);
        edited.push('\n');
    };
    for line in text.lines() {
        match record {
            _ if !is_theirs(line) => write(line),
            Some(record) if !done => write(&Zeroizing::new(format!("{user}:{record}"))),
            _ => {}
        }
        done |= is_theirs(line);
    }
    match record {
        Some(record) if !done => write(&Zeroizing::new(format!("{user}:{record}"))),
        None if !done => return None,
        _ => {}
    }
    Some(edited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editing_touches_one_user() {
        let text = "# x\nanna:1\nbert:2\nanna:3";
        assert_eq!(edited(text, "anna", Some("9")).unwrap().as_str(), "# x\nanna:9\nbert:2\n");
        assert_eq!(
            edited(text, "carl", Some("9")).unwrap().as_str(),
            "# x\nanna:1\nbert:2\nanna:3\ncarl:9\n"
        );
        assert_eq!(edited(text, "anna", None).unwrap().as_str(), "# x\nbert:2\n");
        assert!(edited(text, "carl", None).is_none());
        assert!(edited("#: a comment\n", "#", None).is_none(), "a comment is nobody's");
        assert_eq!(edited("", "carl", Some("9")).unwrap().as_str(), "carl:9\n");
    }
}
