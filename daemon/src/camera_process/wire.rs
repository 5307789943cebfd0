//! The stream from a camera process to the daemon: length-prefixed messages and frames. The daemon
//! does not trust it: the reader sets a limit and validates each message.

use std::io::Write;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest message.
const LONGEST_MESSAGE: usize = 1024;

/// A message of the camera process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The first frame came.
    Begins {
        /// Codec of the stream.
        codec: String,
        /// Width of the frame in pixels.
        width: u32,
        /// Height of the frame in pixels.
        height: u32,
    },
    /// The camera sends frames.
    Alive {
        /// Number of frames so far.
        frames: u64,
        /// Number of broken frames so far.
        broken: u64,
    },
    /// The process ends; the same numbers, up to its end.
    Ends {
        /// Number of frames.
        frames: u64,
        /// Number of broken frames.
        broken: u64,
    },
    /// A frame of a burst; its JPEG follows.
    Frame {
        /// Sharpness, comparable only within its burst.
        sharpness: f32,
        /// True for the last frame of this burst.
        last: bool,
    },
    /// A frame of a followed camera; its JPEG follows.
    Look {
        /// Sharpness, comparable only between frames of this camera.
        sharpness: f32,
        /// True if it shows another scene than the look before.
        cut: bool,
        /// True if something moves.
        moves: bool,
    },
}

/// Reasons why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The output ended.
    #[error("its output ended")]
    Ended(#[from] std::io::Error),
    /// The message is not valid.
    #[error("it sent an invalid message: {0}")]
    Nonsense(String),
}

/// Writes a message and the bytes that belong to it; fails if the reader is gone.
pub fn write(out: &mut impl Write, message: &Message, bytes: &[u8]) -> std::io::Result<()> {
    let message = serde_json::to_vec(message)?;
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(std::io::Error::other);
    out.write_all(&length(&message)?.to_be_bytes())?;
    out.write_all(&length(bytes)?.to_be_bytes())?;
    out.write_all(&message)?;
    out.write_all(bytes)?;
    out.flush()
}

/// Reads the next message and at most `limit` bytes that belong to it.
pub async fn read(
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<(Message, Vec<u8>), WireError> {
    let (message, follow) = (
        from.read_u32().await? as usize,
        from.read_u32().await? as usize,
    );
    if message > LONGEST_MESSAGE || follow > limit {
        return Err(WireError::Nonsense(format!(
            "a message of {message} bytes and {follow} bytes after it"
        )));
    }
    let mut buffer = vec![0; message];
    from.read_exact(&mut buffer).await?;
    let message =
        serde_json::from_slice(&buffer).map_err(|error| WireError::Nonsense(error.to_string()))?;
    let mut bytes = vec![0; follow];
    from.read_exact(&mut bytes).await?;
    Ok((message, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIVE: Message = Message::Alive {
        frames: 9,
        broken: 7,
    };

    #[tokio::test]
    async fn messages_survive_the_wire_but_large_or_malformed_ones_fail() {
        let frame = Message::Frame {
            sharpness: 1.5,
            last: true,
        };
        let mut pipe = Vec::new();
        write(&mut pipe, &ALIVE, &[]).unwrap();
        write(&mut pipe, &frame, b"picture").unwrap();
        let mut reader = pipe.as_slice();
        assert_eq!(read(&mut reader, 7).await.unwrap(), (ALIVE, Vec::new()));
        assert_eq!(
            read(&mut reader, 7).await.unwrap(),
            (frame.clone(), b"picture".to_vec())
        );
        assert!(matches!(
            read(&mut reader, 7).await,
            Err(WireError::Ended(_))
        ));

        let mut large = Vec::new();
        write(&mut large, &frame, b"picture").unwrap();
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
        // JSON has no NaN: a frame with it is invalid too.
        let mut nan = Vec::new();
        write(
            &mut nan,
            &Message::Frame {
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
