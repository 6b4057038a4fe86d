//! Servlet parameters: from the query, a form or a multipart body, merged; the query's value counts where both have one.
use bytes::Bytes;

/// What was sent cannot be read; says why, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadParams(pub(super) String);

/// The parameters of a request, in the order they came.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Params(Vec<(String, String)>);

/// A request has at most this many parameters: no Nacos call has more than twenty.
const PARAMS_MAX: usize = 256;

impl Params {
    /// Reads the query and an urlencoded body. Text is UTF-8, whatever a Content-Type says.
    pub(super) fn parse(query: &str, form: &[u8]) -> Result<Self, BadParams> {
        let mut params = Self::default();
        params.extend(query.as_bytes())?;
        params.extend(form)?;
        Ok(params)
    }

    fn extend(&mut self, encoded: &[u8]) -> Result<(), BadParams> {
        for pair in encoded.split(|it| *it == b'&').filter(|it| !it.is_empty()) {
            let (name, value) = match pair.iter().position(|it| *it == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            let name = decode(name)?;
            let value = decode(value).map_err(|err| BadParams(format!("parameter '{name}': {}", err.0)))?;
            self.push(name, value)?;
        }
        Ok(())
    }

    pub(super) fn push(&mut self, name: String, value: String) -> Result<(), BadParams> {
        if self.0.len() == PARAMS_MAX {
            return Err(BadParams(format!("more than {PARAMS_MAX} parameters")));
        }
        self.0.push((name, value));
        Ok(())
    }

    /// The first value of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| &**value)
    }

    /// The first value of that name, taken out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.iter_mut().find(|(it, _)| it == name).map(|(_, value)| std::mem::take(value))
    }

    /// The value, unless it is blank.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|it| !it.trim().is_empty())
    }
}

/// `+` is a space, `%XX` a byte; the bytes are UTF-8.
fn decode(encoded: &[u8]) -> Result<String, BadParams> {
    let mut out = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|it| char::from(it).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    (_, _) => return Err(BadParams("a % is not followed by two hexadecimal digits".into())),
                }
            }
            other => other,
        });
    }
    String::from_utf8(out).map_err(|_| BadParams("the text is not UTF-8".into()))
}

/// The fields of a `multipart/form-data` body (RFC 7578); files are not read.
pub(super) async fn multipart(params: &mut Params, content_type: &str, body: Bytes) -> Result<(), BadParams> {
    let bad = |err: multer::Error| BadParams(format!("the multipart body cannot be read: {err}"));
    let boundary = multer::parse_boundary(content_type).map_err(bad)?;
    let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(body)]);
    let mut fields = multer::Multipart::new(stream, boundary);
    while let Some(field) = fields.next_field().await.map_err(bad)? {
        if let (Some(name), None) = (field.name().map(str::to_owned), field.file_name()) {
            let value = field.bytes().await.map_err(bad)?;
            let value = String::from_utf8(value.into())
                .map_err(|_| BadParams(format!("parameter '{name}': the text is not UTF-8")))?;
            params.push(name, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn query_and_form_are_merged() {
        let params = Params::parse("a=1&b=%E9%85%8D+x&&c", b"a=2&d=%2B%25").unwrap();
        let got: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| params.get(name)).to_vec();
        assert_eq!(got, [Some("1"), Some("配 x"), Some(""), Some("+%"), None]);
        assert_eq!(params.filled("c"), None);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "%80=1"] {
            assert!(Params::parse(bad, b"").is_err(), "{bad}");
        }
        assert!(Params::parse(&"a=1&".repeat(PARAMS_MAX + 1), b"").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(query in any::<String>(), form in any::<Vec<u8>>()) {
            drop(Params::parse(&query, &form));
        }
    }
}
