//! ClickHouse's own compressed blocks (`compress=1`, `decompress=1`), one after another:
//!
//! | bytes | what |
//! |---|---|
//! | 16 | CityHash 1.0.2, 128 bits, of everything after it (high half first, each half little-endian) |
//! | 1 | method: `0x82` LZ4 block, `0x02` stored |
//! | 4 | size of method, both sizes and data, little-endian |
//! | 4 | size of the data once decompressed, little-endian |
//! | n | data |
//!
//! Sizes come from the client, so each is checked before memory is taken for it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::{Exception, code};

/// The largest block taken in, compressed or not. Clients cut at 256 KiB to 1 MiB; the official crate makes
/// one block of whatever is flushed at once.
pub const BLOCK_BYTES_MAX: usize = 128 << 20;

/// The size results are cut to before they are compressed, ClickHouse's own choice.
const RESULT_BLOCK_BYTES: usize = 1 << 20;

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const METHOD_LZ4: u8 = 0x82;
const METHOD_NONE: u8 = 0x02;

/// Puts `data` into compressed blocks.
pub fn compress(data: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    for piece in data.chunks(RESULT_BLOCK_BYTES) {
        compress_block(piece, &mut out);
    }
    out.freeze()
}

fn compress_block(piece: &[u8], out: &mut BytesMut) {
    let packed = lz4_flex::block::compress(piece);
    let start = out.len();
    out.reserve(CHECKSUM_BYTES + HEADER_BYTES + packed.len());
    out.put_bytes(0, CHECKSUM_BYTES);
    out.put_u8(METHOD_LZ4);
    // A piece is at most RESULT_BLOCK_BYTES, and LZ4 grows it by less than 1 %: both sizes fit.
    out.put_u32_le((HEADER_BYTES + packed.len()) as u32);
    out.put_u32_le(piece.len() as u32);
    out.put_slice(&packed);
    let checksum = checksum(&out[start + CHECKSUM_BYTES..]);
    out[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum);
}

fn checksum(data: &[u8]) -> [u8; CHECKSUM_BYTES] {
    cityhash_rs::cityhash_102_128(data).rotate_right(64).to_le_bytes()
}

/// Takes compressed bytes as they arrive and gives back whole blocks, decompressed.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Adds bytes from the body.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole block, or `None` when more bytes are needed.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, Exception> {
        let Some(mut header) = self.buffer.get(CHECKSUM_BYTES..CHECKSUM_BYTES + HEADER_BYTES) else {
            return Ok(None);
        };
        let method = header.get_u8();
        let packed_bytes = header.get_u32_le() as usize;
        let data_bytes = header.get_u32_le() as usize;
        if !(HEADER_BYTES..=BLOCK_BYTES_MAX).contains(&packed_bytes) || data_bytes > BLOCK_BYTES_MAX {
            return Err(corrupt(format_args!("sizes {packed_bytes} and {data_bytes} of a compressed block")));
        }
        if self.buffer.len() < CHECKSUM_BYTES + packed_bytes {
            return Ok(None);
        }
        let block = self.buffer.split_to(CHECKSUM_BYTES + packed_bytes);
        let (expected, body) = block.split_at(CHECKSUM_BYTES);
        if checksum(body) != expected {
            return Err(Exception::new(
                code::CHECKSUM_DOESNT_MATCH,
                "CHECKSUM_DOESNT_MATCH",
                "Checksum doesn't match: corrupted data",
            ));
        }
        let packed = &body[HEADER_BYTES..];
        match method {
            METHOD_LZ4 => {
                let data = lz4_flex::block::decompress(packed, data_bytes)
                    .map_err(|error| corrupt(format_args!("LZ4 block: {error}")))?;
                if data.len() != data_bytes {
                    return Err(corrupt(format_args!("LZ4 block of {} bytes said {data_bytes}", data.len())));
                }
                Ok(Some(data.into()))
            }
            METHOD_NONE => Ok(Some(Bytes::copy_from_slice(packed))),
            other => Err(corrupt(format_args!("compression method 0x{other:02x} (send LZ4, 0x82)"))),
        }
    }

    /// Whether the bytes so far end with a whole block.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

fn corrupt(what: std::fmt::Arguments<'_>) -> Exception {
    Exception::new(code::CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", format_args!("Cannot decompress: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<Vec<u8>, Exception> {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(block) = decoder.next_block()? {
                out.extend_from_slice(&block);
            }
        }
        assert!(decoder.is_empty(), "left over bytes");
        Ok(out)
    }

    #[test]
    fn what_is_compressed_comes_back_however_it_is_cut() {
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let packed = compress(&data);
        assert!(packed.len() < data.len() / 10);
        for cut in [1, 15, 16, 24, 25, 26, packed.len() / 2, packed.len() - 1] {
            assert_eq!(decode(&[&packed[..cut], &packed[cut..]]).expect("decodes"), data, "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let mut packed = compress(b"some data, some data, some data").to_vec();
        let last = packed.len() - 1;
        packed[last] ^= 1;
        let error = decode(&[&packed]).expect_err("corrupt");
        assert_eq!(error.code(), code::CHECKSUM_DOESNT_MATCH);
    }

    #[test]
    fn an_absurd_size_takes_no_memory() {
        let mut packed = compress(b"x").to_vec();
        packed[CHECKSUM_BYTES + 5..CHECKSUM_BYTES + 9].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&[&packed]).expect_err("refused").code(), code::CANNOT_DECOMPRESS);
    }
}
