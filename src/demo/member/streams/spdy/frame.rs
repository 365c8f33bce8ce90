//! Frames of SPDY/3.1 on the wire (draft-mbelshe-httpbis-spdy-00, section 2.2 and 2.6).

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    super::pipe::CHUNK,
    SpdyError,
    headers::{Decoder, Encoder, Headers, LONGEST_BLOCK},
};

/// The longest control frame taken, in bytes.
const LONGEST_CONTROL: usize = LONGEST_BLOCK;

const VERSION: u16 = 3;
const FIN: u8 = 1;
/// Stream ids have 31 bits.
const ID: u32 = 0x7fff_ffff;

/// A frame. Names are those of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Opens a stream.
    SynStream { id: u32, headers: Headers, fin: bool },
    /// Accepts a stream.
    SynReply { id: u32, headers: Headers, fin: bool },
    /// Ends a stream with an error.
    RstStream { id: u32, status: u32 },
    /// To be answered with the same.
    Ping(u32),
    /// No streams after `last` will be taken.
    GoAway { last: u32 },
    /// A piece of a stream; `fin` ends the sender's half. A long DATA frame is read as several of these.
    Data { id: u32, fin: bool, payload: Bytes },
    /// Nothing that matters here: SETTINGS, HEADERS, WINDOW_UPDATE and what is not known. The peers that this is for
    /// (moby/spdystream) have no flow control.
    Other,
}

/// Reads frames.
pub(super) struct Reader<R> {
    io: R,
    headers: Decoder,
    /// What is left of a DATA frame: stream, FIN, bytes.
    data: Option<(u32, bool, usize)>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(io: R) -> Self {
        Self { io, headers: Decoder::new(), data: None }
    }

    /// The next frame; `None` at a clean end.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some((id, fin, left)) = self.data.take() {
            return self.data(id, fin, left).await.map(Some);
        }
        let mut head = [0; 8];
        // Nothing at all is a clean end, half a head is not.
        if self.io.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut head[1..]).await?;
        let [a, b, c, d, flags, length @ ..] = head;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
        if first & !ID == 0 {
            return self.data(first & ID, flags & FIN != 0, length).await.map(Some);
        }
        if first >> 16 & 0x7fff != u32::from(VERSION) {
            return Err(SpdyError::Version((first >> 16 & 0x7fff) as u16));
        }
        if length > LONGEST_CONTROL {
            return Err(SpdyError::TooLong(length));
        }
        let mut body = vec![0; length];
        self.io.read_exact(&mut body).await?;
        self.control((first & 0xffff) as u16, flags & FIN != 0, &body).map(Some)
    }

    async fn data(&mut self, id: u32, fin: bool, length: usize) -> Result<Frame, SpdyError> {
        let now = length.min(CHUNK);
        let left = length - now;
        let mut payload = BytesMut::zeroed(now);
        self.io.read_exact(&mut payload).await?;
        if left > 0 {
            self.data = Some((id, fin, left));
        }
        Ok(Frame::Data { id, fin: fin && left == 0, payload: payload.freeze() })
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: &[u8]) -> Result<Frame, SpdyError> {
        let mut word = || {
            let (word, rest) = body.split_first_chunk::<4>().ok_or(SpdyError::CutOff)?;
            body = rest;
            Ok::<u32, SpdyError>(u32::from_be_bytes(*word))
        };
        Ok(match kind {
            1 => {
                let id = word()? & ID;
                // The associated stream, which means nothing here.
                word()?;
                // Priority and slot.
                let block = body.get(2..).ok_or(SpdyError::CutOff)?;
                Frame::SynStream { id, headers: self.headers.decode(block)?, fin }
            }
            2 => Frame::SynReply { id: word()? & ID, headers: self.headers.decode(body)?, fin },
            3 => Frame::RstStream { id: word()? & ID, status: word()? },
            6 => Frame::Ping(word()?),
            7 => Frame::GoAway { last: word()? & ID },
            8 => {
                word()?;
                // Only to keep the zlib stream in step.
                self.headers.decode(body)?;
                Frame::Other
            }
            _ => Frame::Other,
        })
    }
}

/// Turns frames into bytes.
pub(super) struct Writer {
    headers: Encoder,
}

impl Writer {
    pub(super) fn new() -> Result<Self, SpdyError> {
        Ok(Self { headers: Encoder::new()? })
    }

    /// `frame` on the wire, in the order in which frames are sent.
    pub(super) fn encode(&mut self, frame: &Frame) -> Result<Bytes, SpdyError> {
        let mut bytes = BytesMut::new();
        match frame {
            Frame::SynStream { id, headers, fin } => {
                let block = self.headers.encode(headers)?;
                control(&mut bytes, 1, *fin, 10 + block.len());
                bytes.put_u32(*id);
                bytes.put_u32(0);
                bytes.put_u16(0);
                bytes.extend_from_slice(&block);
            }
            Frame::SynReply { id, headers, fin } => {
                let block = self.headers.encode(headers)?;
                control(&mut bytes, 2, *fin, 4 + block.len());
                bytes.put_u32(*id);
                bytes.extend_from_slice(&block);
            }
            Frame::RstStream { id, status } => {
                control(&mut bytes, 3, false, 8);
                bytes.put_u32(*id);
                bytes.put_u32(*status);
            }
            Frame::Ping(id) => {
                control(&mut bytes, 6, false, 4);
                bytes.put_u32(*id);
            }
            Frame::GoAway { last } => {
                control(&mut bytes, 7, false, 8);
                bytes.put_u32(*last);
                bytes.put_u32(0);
            }
            Frame::Data { id, fin, payload } => {
                bytes.reserve(8 + payload.len());
                bytes.put_u32(*id);
                bytes.put_u8(u8::from(*fin));
                bytes.put_uint(payload.len() as u64, 3);
                bytes.extend_from_slice(payload);
            }
            Frame::Other => {}
        }
        Ok(bytes.freeze())
    }
}

fn control(bytes: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    bytes.put_u16(0x8000 | VERSION);
    bytes.put_u16(kind);
    bytes.put_u8(u8::from(fin));
    bytes.put_uint(length as u64, 3);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let id = 1u32..=ID;
        let headers = || prop::collection::vec(("[a-z-]{1,12}", "[ -~]{0,20}"), 0..5).prop_map(Headers);
        prop_oneof![
            (id.clone(), headers(), any::<bool>()).prop_map(|(id, headers, fin)| Frame::SynStream {
                id,
                headers,
                fin
            }),
            (id.clone(), headers(), any::<bool>()).prop_map(|(id, headers, fin)| Frame::SynReply {
                id,
                headers,
                fin
            }),
            (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
            any::<u32>().prop_map(Frame::Ping),
            id.clone().prop_map(|last| Frame::GoAway { last }),
            (id, any::<bool>(), prop::collection::vec(any::<u8>(), 0..100))
                .prop_map(|(id, fin, payload)| Frame::Data { id, fin, payload: payload.into() }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_the_way(sent in prop::collection::vec(frames(), 0..20)) {
            let mut writer = Writer::new().unwrap();
            let mut wire = Vec::new();
            for frame in &sent {
                wire.extend_from_slice(&writer.encode(frame).unwrap());
            }
            let received = block_on(async {
                let mut reader = Reader::new(&wire[..]);
                let mut received = Vec::new();
                while let Some(frame) = reader.next().await.unwrap() {
                    received.push(frame);
                }
                received
            });
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn hostile_bytes_end_in_an_error_or_an_end(
            start in prop::sample::select(vec![&[][..], &[0x80, 3, 0, 1, 0, 0, 0, 40], &[0x80, 3, 0, 2, 0, 0, 0, 9],
                &[0x80, 3, 0, 8, 1, 0, 0, 4], &[0, 0, 0, 1, 1, 0, 0, 9]]),
            bytes in prop::collection::vec(any::<u8>(), 0..400)
        ) {
            let wire = [start, &bytes[..]].concat();
            block_on(async {
                let mut reader = Reader::new(&wire[..]);
                while let Ok(Some(_)) = reader.next().await {}
            });
        }
    }

    #[test]
    fn a_long_data_frame_is_read_in_pieces() {
        let payload = Bytes::from(vec![7; 3 * CHUNK + 5]);
        let frame = Frame::Data { id: 1, fin: true, payload };
        let wire = Writer::new().unwrap().encode(&frame).unwrap();
        let (mut length, mut ends) = (0, Vec::new());
        block_on(async {
            let mut reader = Reader::new(&wire[..]);
            while let Some(Frame::Data { fin, payload, .. }) = reader.next().await.unwrap() {
                assert!(payload.len() <= CHUNK);
                length += payload.len();
                ends.push(fin);
            }
        });
        assert_eq!(length, 3 * CHUNK + 5);
        assert_eq!(ends, [false, false, false, true]);
    }

    #[test]
    fn a_frame_too_long_or_of_another_version_is_an_error() {
        for wire in [[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], [0x80, 2, 0, 1, 0, 0, 0, 0]] {
            assert!(block_on(Reader::new(&wire[..]).next()).is_err());
        }
    }
}
