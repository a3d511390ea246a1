//! A request's body as it arrives: decompressed, gathered into pieces the engine likes, and never taken for
//! complete when it is not.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::{
    error::{Exception, code},
    lz4,
    session::body_broke_off,
};

/// Small frames are gathered to this size: each piece handed to the engine costs it a copy and a wake-up.
pub const PIECE_BYTES: usize = 512 << 10;

/// A body being read.
pub struct RequestBody {
    stream: BodyDataStream,
    decoder: Option<lz4::Decoder>,
    receive_timeout: Duration,
    ended: bool,
}

impl RequestBody {
    /// `decompress`: the body is in compressed blocks.
    pub fn new(body: Body, decompress: bool, receive_timeout: Duration) -> Self {
        Self {
            stream: body.into_data_stream(),
            decoder: decompress.then(lz4::Decoder::default),
            receive_timeout,
            ended: false,
        }
    }

    /// At least `bytes` of the body, or all that is left of it; empty at its end.
    pub async fn gather(&mut self, bytes: usize) -> Result<Bytes, Exception> {
        let mut gathered = BytesMut::new();
        while gathered.len() < bytes {
            let Some(piece) = self.next().await? else { break };
            if gathered.is_empty() && piece.len() >= bytes {
                return Ok(piece);
            }
            gathered.extend_from_slice(&piece);
        }
        Ok(gathered.freeze())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Exception> {
        loop {
            if let Some(decoder) = &mut self.decoder
                && let Some(block) = decoder.next_block()?
            {
                return Ok(Some(block));
            }
            if self.ended {
                return match &self.decoder {
                    Some(decoder) if !decoder.is_empty() => Err(body_broke_off()),
                    _ => Ok(None),
                };
            }
            let Ok(frame) = tokio::time::timeout(self.receive_timeout, self.stream.next()).await else {
                return Err(Exception::new(
                    code::SOCKET_TIMEOUT,
                    "SOCKET_TIMEOUT",
                    format_args!("Timeout: nothing received for {} ms", self.receive_timeout.as_millis()),
                ));
            };
            match (frame, &mut self.decoder) {
                (None, _) => self.ended = true,
                // A connection that broke, a chunk cut short, fewer bytes than Content-Length said.
                (Some(Err(_)), _) => return Err(body_broke_off()),
                (Some(Ok(data)), Some(decoder)) => decoder.push(&data),
                (Some(Ok(data)), None) => return Ok(Some(data)),
            }
        }
    }
}
