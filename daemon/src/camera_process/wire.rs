//! What a camera process writes for the daemon: words and frames, each with its length before it.
//! Not for trusting it: whoever reads sets a limit and checks what makes sense.

use std::io::Write;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// More than any word takes.
const LONGEST_WORD: usize = 1024;

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The camera sends frames.
    Alive {
        /// Broken ones so far.
        broken: u64,
    },
    /// One frame of a burst; its JPEG follows.
    Frame {
        /// Fine detail in it, to be compared within its burst only.
        sharpness: f32,
        /// No more belong to this burst.
        last: bool,
    },
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It ended.
    #[error("its output ended")]
    Ended(#[from] std::io::Error),
    /// It said what no camera process says.
    #[error("it wrote nonsense: {0}")]
    Nonsense(String),
}

/// Writes a word and what follows it, all or, when the reader is gone, an error.
pub fn write(out: &mut impl Write, word: Word, bytes: &[u8]) -> std::io::Result<()> {
    let word = serde_json::to_vec(&word)?;
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(std::io::Error::other);
    out.write_all(&length(&word)?.to_be_bytes())?;
    out.write_all(&length(bytes)?.to_be_bytes())?;
    out.write_all(&word)?;
    out.write_all(bytes)?;
    out.flush()
}

/// Reads the next word and at most `limit` bytes that follow it.
pub async fn read(
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<(Word, Vec<u8>), WireError> {
    let (word, follow) = (
        from.read_u32().await? as usize,
        from.read_u32().await? as usize,
    );
    if word > LONGEST_WORD || follow > limit {
        return Err(WireError::Nonsense(format!(
            "a word of {word} bytes and {follow} bytes after it"
        )));
    }
    let mut buffer = vec![0; word];
    from.read_exact(&mut buffer).await?;
    let word =
        serde_json::from_slice(&buffer).map_err(|error| WireError::Nonsense(error.to_string()))?;
    let mut bytes = vec![0; follow];
    from.read_exact(&mut bytes).await?;
    Ok((word, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_what_is_too_large_or_nonsense_is_not() {
        let frame = Word::Frame {
            sharpness: 1.5,
            last: true,
        };
        let mut pipe = Vec::new();
        write(&mut pipe, Word::Alive { broken: 7 }, &[]).unwrap();
        write(&mut pipe, frame, b"picture").unwrap();
        let mut reader = pipe.as_slice();
        assert_eq!(
            read(&mut reader, 7).await.unwrap(),
            (Word::Alive { broken: 7 }, Vec::new())
        );
        assert_eq!(
            read(&mut reader, 7).await.unwrap(),
            (frame, b"picture".to_vec())
        );
        assert!(matches!(
            read(&mut reader, 7).await,
            Err(WireError::Ended(_))
        ));

        let mut large = Vec::new();
        write(&mut large, frame, b"picture").unwrap();
        assert!(matches!(
            read(&mut large.as_slice(), 6).await,
            Err(WireError::Nonsense(_))
        ));
        for nonsense in [
            &b"\xff\xff\xff\xff\0\0\0\0"[..],
            b"\0\0\0\x02\0\0\0\0{}",
            b"\0\0\0\x04\0\0\0\0null",
        ] {
            assert!(
                matches!(read(&mut &*nonsense, 1).await, Err(WireError::Nonsense(_))),
                "{nonsense:?}"
            );
        }
        // JSON has no NaN: a frame that claims it is nonsense too.
        let mut nan = Vec::new();
        write(
            &mut nan,
            Word::Frame {
                sharpness: f32::NAN,
                last: true,
            },
            &[],
        )
        .unwrap();
        assert!(matches!(
            read(&mut nan.as_slice(), 1).await,
            Err(WireError::Nonsense(_))
        ));
    }
}
