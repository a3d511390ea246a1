//! A compressed body to its bytes. Whatever the bytes are,
//!
//! * what is inflated is never larger than the cap, and what is refused is refused for its size or its encoding;
//! * a larger cap lets the same bytes through unchanged, and turns nothing that was readable into an error;
//! * what was compressed inflates to what it was, and a byte over the cap is refused.

use std::io::Write as _;

use flate2::Compression;
use millrace_collector::chain::{Encoding, inflate};
use millrace_schemas::reject::Reason;

const ENCODINGS: [Encoding; 4] = [Encoding::Gzip, Encoding::Deflate, Encoding::Brotli, Encoding::Zstd];

/// See the module. The first byte chooses the encoding, what the bytes are, and the cap.
pub fn check(input: &[u8]) {
    let Some((choice, bytes)) = input.split_first() else { return };
    let encoding = ENCODINGS[usize::from(choice & 3)];
    if choice & 4 == 0 {
        check_foreign(bytes, encoding, 16 << (choice >> 4));
    } else {
        check_own(bytes, encoding);
    }
}

fn check_foreign(bytes: &[u8], encoding: Encoding, bytes_max: usize) {
    let wide = inflate(bytes, encoding, 4 * bytes_max);
    match inflate(bytes, encoding, bytes_max) {
        Ok(inflated) => {
            assert!(inflated.len() <= bytes_max, "{} bytes", inflated.len());
            assert!(wide.is_ok_and(|wide| wide == inflated), "another cap, other bytes");
        }
        Err(refusal) if refusal.reason == Reason::BodyTooLarge => {
            assert!(wide.is_err() || wide.is_ok_and(|wide| wide.len() > bytes_max), "it was not too large");
        }
        Err(refusal) => {
            assert_eq!(refusal.reason, Reason::UnsupportedEncoding);
            assert!(wide.is_err(), "readable after all");
        }
    }
}

fn check_own(bytes: &[u8], encoding: Encoding) {
    let Ok(compressed) = compress(bytes, encoding) else { return };
    let whole = inflate(&compressed, encoding, bytes.len());
    assert!(whole.is_ok_and(|whole| *whole == *bytes), "it does not come back");
    if let Some(less) = bytes.len().checked_sub(1) {
        let refused = inflate(&compressed, encoding, less);
        assert!(refused.is_err_and(|refusal| refusal.reason == Reason::BodyTooLarge));
    }
}

/// The bytes in this encoding.
pub fn compress(bytes: &[u8], encoding: Encoding) -> std::io::Result<Vec<u8>> {
    match encoding {
        Encoding::Identity => Ok(bytes.to_owned()),
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Encoding::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Encoding::Brotli => {
            let mut out = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 1, 18);
            encoder.write_all(bytes)?;
            drop(encoder);
            Ok(out)
        }
        Encoding::Zstd => zstd::encode_all(bytes, 1),
    }
}
