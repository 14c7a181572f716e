//! `State`: the dump, in pieces, as a whole one may be longer than a message.

use super::Streamed;
use davit_proto::admin::StatePiece;
use serde_json::Value;
use tonic::Status;

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// The state as it is now. Written where it holds up nobody: there may be megabytes of it.
pub(super) async fn stream(
    source: impl FnOnce() -> Value + Send + 'static,
) -> Result<Streamed<StatePiece>, Status> {
    let json = tokio::task::spawn_blocking(move || serde_json::to_vec(&source())).await;
    let json = json.map_err(|error| Status::internal(format!("tell the state: {error}")))?;
    let json = json.map_err(|error| Status::internal(format!("write the state: {error}")))?;
    let pieces = futures_util::stream::unfold((json, 0), |(json, at)| async move {
        let piece = json.get(at..json.len().min(at + PIECE)).filter(|piece| !piece.is_empty())?;
        let piece = StatePiece { json: piece.to_vec() };
        Some((Ok(piece), (json, at + PIECE)))
    });
    Ok(Box::pin(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;

    #[tokio::test]
    async fn the_pieces_together_are_the_state_however_long_it_is() {
        for length in [0, PIECE - 2, PIECE, 20 << 20] {
            let text = "x".repeat(length);
            let whole = serde_json::json!(text);
            let pieces: Vec<_> = stream(move || whole).await.unwrap().collect().await;
            assert!(pieces.iter().flatten().all(|piece| piece.json.len() <= PIECE));
            let json: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap().json).collect();
            assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
        }
    }
}
