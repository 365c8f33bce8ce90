//! Header blocks of SPDY/3.1: names and values under zlib with the dictionary of the protocol.
//!
//! Each direction of a connection has one zlib stream that all its header blocks share, so every block must pass
//! through here, also those of streams that are refused. Blocks come from anybody: what grows past
//! [`LONGEST_BLOCK`] is an error, never memory.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// The longest uncompressed header block, in bytes.
pub(super) const LONGEST_BLOCK: usize = 256 << 10;

/// Names, in lower case, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Headers(pub(in super::super) Vec<(String, String)>);

impl Headers {
    /// The first value of `name`, which is in lower case.
    pub(in super::super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The dictionary of draft-mbelshe-httpbis-spdy-00, section 2.6.10.1: frequent names and values with their lengths in
/// front, then frequent pieces of text.
fn dictionary() -> Vec<u8> {
    let words = [
        "options",
        "head",
        "post",
        "put",
        "delete",
        "trace",
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "accept-ranges",
        "age",
        "allow",
        "authorization",
        "cache-control",
        "connection",
        "content-base",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "date",
        "etag",
        "expect",
        "expires",
        "from",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "last-modified",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "referer",
        "retry-after",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "method",
        "get",
        "status",
        "200 OK",
        "version",
        "HTTP/1.1",
        "url",
        "public",
        "set-cookie",
        "keep-alive",
        "origin",
    ];
    let mut dictionary = Vec::with_capacity(1423);
    for word in words {
        dictionary.extend_from_slice(&[0, 0, 0, word.len() as u8]);
        dictionary.extend_from_slice(word.as_bytes());
    }
    dictionary.extend_from_slice(
        b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
          203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
          403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
          Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
          Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
          chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
          text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
    );
    dictionary
}

/// Reads the header blocks of one direction.
pub(super) struct Decoder {
    zlib: Decompress,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true) }
    }

    /// The headers in `block`, the next one of its direction.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            let before = (self.zlib.total_in(), plain.len());
            let outcome = self.zlib.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            block = &block[(self.zlib.total_in() - before.0).try_into().unwrap_or(block.len())..];
            match outcome {
                Ok(Status::Ok | Status::BufError) => {}
                // A stream that ends cannot carry the next block.
                Ok(Status::StreamEnd) => return Err(SpdyError::HeaderBlock("the compressed stream ends")),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&dictionary())
                        .map_err(|_| SpdyError::HeaderBlock("it wants an unknown dictionary"))?;
                    continue;
                }
                Err(_) => return Err(SpdyError::HeaderBlock("it is not zlib")),
            }
            if plain.len() > LONGEST_BLOCK {
                return Err(SpdyError::HeaderBlock("it is too long"));
            }
            if plain.len() == plain.capacity() {
                plain.reserve(plain.capacity());
            } else if block.is_empty() || before == (self.zlib.total_in(), plain.len()) {
                return Ok(plain);
            }
        }
    }
}

/// Writes the header blocks of one direction.
pub(super) struct Encoder {
    zlib: Compress,
}

impl Encoder {
    pub(super) fn new() -> Result<Self, SpdyError> {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&dictionary())
            .map_err(|_| SpdyError::HeaderBlock("zlib refuses the dictionary"))?;
        Ok(Self { zlib })
    }

    /// `headers` as the next block of its direction.
    pub(super) fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::new();
        put_length(&mut plain, headers.0.len());
        for (name, value) in &headers.0 {
            for text in [name, value] {
                put_length(&mut plain, text.len());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut rest = &plain[..];
        let mut block = Vec::with_capacity(plain.len() + 64);
        loop {
            let before = self.zlib.total_in();
            self.zlib
                .compress_vec(rest, &mut block, FlushCompress::Sync)
                .map_err(|_| SpdyError::HeaderBlock("zlib fails"))?;
            rest = &rest[(self.zlib.total_in() - before).try_into().unwrap_or(rest.len())..];
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(block.capacity());
        }
    }
}

fn put_length(block: &mut Vec<u8>, length: usize) {
    block.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

fn parse(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    let count = take_length(&mut plain)?;
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = take_text(&mut plain)?.to_ascii_lowercase();
        let value = take_text(&mut plain)?;
        headers.0.push((name, value));
    }
    Ok(headers)
}

fn take_length(plain: &mut &[u8]) -> Result<usize, SpdyError> {
    let (length, rest) = plain.split_first_chunk::<4>().ok_or(SpdyError::HeaderBlock("it is cut off"))?;
    *plain = rest;
    usize::try_from(u32::from_be_bytes(*length)).map_err(|_| SpdyError::HeaderBlock("it is too long"))
}

fn take_text(plain: &mut &[u8]) -> Result<String, SpdyError> {
    let length = take_length(plain)?;
    let (text, rest) = plain.split_at_checked(length).ok_or(SpdyError::HeaderBlock("it is cut off"))?;
    *plain = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_is_the_published_one() {
        let (mut a, mut b) = (1u32, 0u32);
        let dictionary = dictionary();
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(dictionary.len(), 1423);
        // The identifier that every zlib stream of SPDY/3.1 starts with.
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn a_bomb_is_an_error() {
        let huge = Headers(vec![("name".to_owned(), "x".repeat(LONGEST_BLOCK))]);
        let block = Encoder::new().unwrap().encode(&huge).unwrap();
        assert!(block.len() < LONGEST_BLOCK / 50);
        assert!(Decoder::new().decode(&block).is_err());
    }

    proptest! {
        #[test]
        fn blocks_of_one_direction_survive_the_way(
            blocks in prop::collection::vec(prop::collection::vec(("[a-z0-9-]{1,20}", "\\PC{0,60}"), 0..8), 1..6)
        ) {
            let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
            for headers in blocks {
                let headers = Headers(headers);
                let block = encoder.encode(&headers).unwrap();
                prop_assert_eq!(decoder.decode(&block).unwrap(), headers);
            }
        }

        #[test]
        fn no_block_makes_the_decoder_panic(block in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Decoder::new().decode(&block);
            let _ = parse(&block);
        }
    }
}
