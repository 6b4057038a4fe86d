//! `Listening-Configs`: fields are separated by 0x02, lines end with 0x01. Three fields (data id, group, md5) or four (and
//! the tenant). What follows the last 0x01 is ignored, as in Nacos.
use std::borrow::Cow;

/// One line, as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The data id.
    pub data_id: &'a str,
    /// The group.
    pub group: &'a str,
    /// The md5 of what the client has; empty when it has nothing.
    pub md5: &'a str,
    /// The tenant as it was spelled; `None` in a line of three fields.
    pub tenant: Option<&'a str>,
}

/// A line that has neither three nor four fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads all lines.
///
/// # Errors
/// [`Malformed`] at the first line that is; also when there is no end of a line and no separator at all.
pub fn decode(text: &str) -> Result<Vec<Line<'_>>, Malformed> {
    let Some((lines, _unfinished)) = text.rsplit_once('\u{1}') else {
        return if text.contains('\u{2}') { Ok(Vec::new()) } else { Err(Malformed) };
    };
    lines.split('\u{1}').map(decode_line).collect()
}

fn decode_line(line: &str) -> Result<Line<'_>, Malformed> {
    let mut fields = line.split('\u{2}');
    let mut field = || fields.next().ok_or(Malformed);
    let (data_id, group, md5) = (field()?, field()?, field()?);
    let tenant = fields.next();
    match fields.next() {
        None => Ok(Line { data_id, group, md5, tenant }),
        Some(_) => Err(Malformed),
    }
}

/// What the answer names: the whole list percent-encoded once, then a line feed. Nothing: nothing at all.
pub fn encode_changed<'a>(changed: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (data_id, group, tenant) in changed {
        escape(data_id, &mut out);
        out.push_str("%02");
        escape(group, &mut out);
        if !tenant.is_empty() {
            out.push_str("%02");
            escape(tenant, &mut out);
        }
        out.push_str("%01");
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

/// As Java's `URLEncoder`: letters, digits and `.-*_` stay.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-*_".contains(&byte) {
            out.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

/// Undoes the second encoding that some clients apply: legal names and digests contain no `%`.
pub fn decode_twice(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let digit = |at: usize| bytes.get(at).and_then(|it| char::from(*it).to_digit(16));
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read_or_refused() {
        let cases: &[(&str, Option<&str>)] = &[
            ("a\u{2}g\u{2}m\u{1}", Some("a g m None")),
            ("a\u{2}g\u{2}\u{1}", Some("a g  None")),
            ("a\u{2}g\u{2}m\u{2}t\u{1}", Some("a g m Some(\"t\")")),
            ("a\u{2}g\u{2}m\u{2}\u{1}", Some("a g m Some(\"\")")),
            ("a\u{2}g\u{2}\u{1}b\u{2}g\u{2}m\u{2}t\u{1}", Some("a g  None|b g m Some(\"t\")")),
            ("a\u{2}g\u{2}m", Some("")),
            ("a\u{2}g\u{2}m\u{1}b\u{2}", Some("a g m None")),
            ("", None),
            ("abc", None),
            ("\u{1}", None),
            ("a\u{1}", None),
            ("a\u{2}g\u{1}", None),
            ("a\u{2}g\u{2}m\u{2}t\u{2}x\u{1}", None),
        ];
        for (input, expected) in cases {
            let got = decode(input).ok().map(|lines| {
                let text = |it: &Line<'_>| format!("{} {} {} {:?}", it.data_id, it.group, it.md5, it.tenant);
                lines.iter().map(text).collect::<Vec<_>>().join("|")
            });
            assert_eq!(got.as_deref(), *expected, "{input:?}");
        }
    }

    #[test]
    fn a_percent_sign_and_two_digits_are_a_byte_and_nothing_else_is() {
        let cases = [
            ("a%02g%01", "a\u{2}g\u{1}"),
            ("%+1", "%+1"),
            ("%2", "%2"),
            ("%zz%", "%zz%"),
            ("%e9%85%8d", "配"),
            ("%ff", "%ff"),
        ];
        for (text, expected) in cases {
            assert_eq!(decode_twice(text), expected);
        }
    }

    #[test]
    fn answers_are_encoded_as_a_whole() {
        assert_eq!(encode_changed([]), "");
        assert_eq!(encode_changed([("a:b", "G", ""), ("c", "G", "dev")]), "a%3Ab%02G%01c%02G%02dev%01\n");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let decoded = decode_twice(&text);
            drop(decode(&decoded));
        }

        #[test]
        fn what_was_encoded_is_decoded(names in prop::collection::vec(("[a-z.:_-]{1,9}", "[a-z]{1,4}", "[a-z]{0,4}"), 1..5)) {
            let encoded = encode_changed(names.iter().map(|(a, b, c)| (&**a, &**b, &**c)));
            let decoded = decode_twice(encoded.trim_end());
            let fields: Vec<Vec<&str>> =
                decoded.split_terminator('\u{1}').map(|line| line.split('\u{2}').collect()).collect();
            let expected: Vec<Vec<&str>> = names
                .iter()
                .map(|(a, b, c)| if c.is_empty() { vec![&**a, &**b] } else { vec![&**a, &**b, &**c] })
                .collect();
            prop_assert_eq!(fields, expected);
        }
    }
}
