//! The text of a command for messages: its program and arguments, quoted as a shell requires.

use crate::sys;
use std::ffi::OsStr;
use std::process::Command;

/// The longest text, without the mark that it was cut.
const LONGEST: usize = 1024;

/// Returns the program and the arguments, cut after about 1 KiB. On Unix a POSIX shell reads the same arguments from it;
/// `$'…'`, for control characters and bytes that are not UTF-8, requires POSIX.1-2024. On Windows the C runtime does,
/// except that U+FFFD replaces control characters.
pub(crate) fn of(command: &Command) -> Box<str> {
    let mut line = String::new();
    push(&mut line, command.get_program());
    for argument in command.get_args() {
        if line.len() > LONGEST {
            break;
        }
        line.push(' ');
        push(&mut line, argument);
    }
    if line.len() > LONGEST {
        let mut end = LONGEST;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line.into_boxed_str()
}

fn push(line: &mut String, argument: &OsStr) {
    // The bytes are UTF-8 except where the argument is not Unicode.
    let bytes = cut(argument.as_encoded_bytes());
    if sys::HAS_POSIX_SHELLS { push_posix(line, bytes) } else { push_windows(line, bytes) }
}

/// Cuts an argument, if it is longer than the text, between two characters.
fn cut(bytes: &[u8]) -> &[u8] {
    let starts_character = |byte: &u8| *byte & 0b1100_0000 != 0b1000_0000;
    for end in LONGEST + 1..=LONGEST + 4 {
        if bytes.get(end).is_some_and(starts_character) {
            return &bytes[..end];
        }
    }
    &bytes[..bytes.len().min(LONGEST + 4)]
}

fn push_posix(line: &mut String, bytes: &[u8]) {
    let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    let is_text = |text: &str| !text.contains(char::is_control);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_safe) => line.push_str(text),
        Ok(text) if is_text(text) => {
            line.push('\'');
            line.push_str(&text.replace('\'', r"'\''"));
            line.push('\'');
        }
        _ => {
            line.push_str("$'");
            for chunk in bytes.utf8_chunks() {
                for character in chunk.valid().chars() {
                    push_escaped(line, character);
                }
                chunk.invalid().iter().for_each(|byte| push_octal(line, *byte));
            }
            line.push('\'');
        }
    }
}

fn push_escaped(line: &mut String, character: char) {
    match character {
        '\n' => line.push_str(r"\n"),
        '\r' => line.push_str(r"\r"),
        '\t' => line.push_str(r"\t"),
        '\'' | '\\' => {
            line.push('\\');
            line.push(character);
        }
        _ if character.is_control() => {
            let mut buffer = [0; 4];
            character.encode_utf8(&mut buffer).bytes().for_each(|byte| push_octal(line, byte));
        }
        _ => line.push(character),
    }
}

fn push_octal(line: &mut String, byte: u8) {
    line.push('\\');
    for shift in [6, 3, 0] {
        line.push(char::from(b'0' + (byte >> shift & 7)));
    }
}

/// The rules of `CommandLineToArgvW`: backslashes are literal, unless a quotation mark follows.
fn push_windows(line: &mut String, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let is_quoted = text.is_empty() || text.contains([' ', '\t']);
    if is_quoted {
        line.push('"');
    }
    let mut backslashes = 0;
    for character in text.chars() {
        if character == '"' {
            line.extend(std::iter::repeat_n('\\', backslashes + 1));
        }
        backslashes = if character == '\\' { backslashes + 1 } else { 0 };
        let is_shown = character == '\t' || !character.is_control();
        line.push(if is_shown { character } else { char::REPLACEMENT_CHARACTER });
    }
    if is_quoted {
        line.extend(std::iter::repeat_n('\\', backslashes));
        line.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posix(argument: &[u8]) -> String {
        let mut line = String::new();
        push_posix(&mut line, argument);
        line
    }

    fn windows(argument: &str) -> String {
        let mut line = String::new();
        push_windows(&mut line, argument.as_bytes());
        line
    }

    #[test]
    fn posix_arguments_are_quoted_only_where_a_shell_requires_it() {
        for plain in ["cc", "--color=auto", "/usr/bin/env", "a@b:c,d%e+f_g.h"] {
            assert_eq!(posix(plain.as_bytes()), plain);
        }
        assert_eq!(posix(b""), "''");
        assert_eq!(posix(b"two words"), "'two words'");
        assert_eq!(posix(b"it's"), r"'it'\''s'");
        assert_eq!(posix(b"$HOME `x` \"y\" \\ * ~"), "'$HOME `x` \"y\" \\ * ~'");
        assert_eq!(posix("h\u{e9}".as_bytes()), "'h\u{e9}'");
        assert_eq!(posix(b"one\ntwo\t\\'\x1b[31m"), r"$'one\ntwo\t\\\'\033[31m'");
        assert_eq!(posix(b"\xff\xc2\x9b7"), r"$'\377\302\2337'");
    }

    #[test]
    fn windows_arguments_are_quoted_as_the_c_runtime_parses_them() {
        for plain in ["cl.exe", r"C:\dir\", "a&b", "it's"] {
            assert_eq!(windows(plain), plain);
        }
        assert_eq!(windows(""), "\"\"");
        assert_eq!(windows("two words"), "\"two words\"");
        assert_eq!(windows(r#"say "hi""#), r#""say \"hi\"""#);
        assert_eq!(windows(r#"a\"b"#), r#"a\\\"b"#);
        assert_eq!(windows(r"C:\my dir\"), r#""C:\my dir\\""#);
        assert_eq!(windows("a\u{1b}b"), "a\u{fffd}b");
    }

    #[test]
    fn long_command_is_cut_between_characters_and_marked() {
        for (sign, before) in [("x", ""), ("\u{20ac}", ""), ("\u{20ac}", "a"), ("\u{20ac}", "ab")] {
            let argument = format!("{before}{}", sign.repeat(1 << 20));
            let line = of(Command::new("program").arg(&argument));
            assert!(line.starts_with("program ") && line.ends_with(&format!("{sign}…")), "{line}");
            assert!((LONGEST..LONGEST + 4).contains(&line.len()), "{}", line.len());
        }
        let line = of(Command::new("x".repeat(1 << 20)).arg("y"));
        assert_eq!(*line, *format!("{}…", "x".repeat(LONGEST)));
        let line = of(Command::new("program").args(vec!["argument"; 1 << 16]));
        assert!(line.ends_with('…') && line.len() < LONGEST + 4, "{line}");
        assert_eq!(*of(Command::new("echo").args(["-n", "a b"])), *sample());
    }

    fn sample() -> String {
        if sys::HAS_POSIX_SHELLS { "echo -n 'a b'" } else { "echo -n \"a b\"" }.to_owned()
    }
}
