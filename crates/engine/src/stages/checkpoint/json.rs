//! Is a JSON object whole, and what is one of its numbers?
//!
//! Trainers write logs into their JSON with values that JSON does not have (`NaN`, `Infinity`), so a strict parser would
//! call a good file torn. Here only strings and brackets are followed: enough to tell a torn end.

/// What was found in the text of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It does not end where its first bracket does, or does not begin with one.
    Torn,
    /// It is whole and has no such number.
    Nothing,
    /// It is whole, and this is the number.
    Number(u64),
}

/// Follows an object to its end and looks for the number of `key` in it, not in what is nested.
pub(super) fn number_in_object(text: &[u8], key: &str) -> Found {
    let text = text.trim_ascii();
    if text.first() != Some(&b'{') {
        return Found::Torn;
    }
    let (mut depth, mut at, mut found) = (0_usize, 0, Found::Nothing);
    let mut last_string = None;
    while at < text.len() {
        match text[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => match depth {
                0 => return Found::Torn,
                1 => return if at + 1 == text.len() { found } else { Found::Torn },
                _ => depth -= 1,
            },
            b'"' => {
                let Some(end) = string_end(text, at + 1) else { return Found::Torn };
                last_string = Some(&text[at + 1..end]);
                at = end;
            }
            b':' if depth == 1 && last_string == Some(key.as_bytes()) => {
                let digits = text[at + 1..].trim_ascii_start();
                let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = std::str::from_utf8(&digits[..length]).ok().and_then(|digits| digits.parse().ok());
                found = number.map_or(found, Found::Number);
            }
            _ => {}
        }
        at += 1;
    }
    Found::Torn
}

/// Where a string's closing quote is.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_and_whole_objects() {
        for (text, expected) in [
            (r#"{"global_step": 500, "log": [{"loss": NaN, "global_step": 3}]}"#, Found::Number(500)),
            (r#"{"log": [{"global_step": 3}], "a": "}\" {", "global_step":7 }"#, Found::Number(7)),
            ("\n{\"a\": -Infinity}\n", Found::Nothing),
            (r#"{"global_step": null}"#, Found::Nothing),
            (r#"{"a": "global_step"}"#, Found::Nothing),
            ("{}", Found::Nothing),
            ("", Found::Torn),
            ("null", Found::Torn),
            (r#"{"global_step": 500, "log": ["#, Found::Torn),
            (r#"{"global_step": 500, "log": "abc"#, Found::Torn),
            (r#"{"a": "\"#, Found::Torn),
            ("{}}", Found::Torn),
            ("{} {", Found::Torn),
        ] {
            assert_eq!(number_in_object(text.as_bytes(), "global_step"), expected, "{text}");
        }
    }
}
