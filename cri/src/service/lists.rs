//! Lists, in one message or as a stream of several (KEP-5825).
//!
//! Owns how large a message may get: a list that is too long for one is refused with the name of the stream that tells it, and a
//! stream's messages stay far below what clients take. Owns no item.

use crate::serve::MESSAGE_MAX;
use prost::Message;
use std::pin::Pin;
use tokio_stream::Stream;
use tonic::{Response, Status};

/// How many items one message of a stream carries at most.
const CHUNK: usize = 1000;
/// How many bytes of items one message of a stream carries at most, unless one item alone is larger. As much as a client's window: more would
/// wait here, encoded, for each client that reads slowly.
const CHUNK_BYTES: usize = 64 * 1024;

/// The stream of a streamed list.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A list in one message, or the advice to take `stream` instead. Without it the caller would hear of a length and of no way out.
pub(super) fn whole<M: Message>(list: M, stream: &str) -> Result<Response<M>, Status> {
    let length = list.encoded_len();
    if length > MESSAGE_MAX {
        return Err(Status::resource_exhausted(format!(
            "the list takes {length} bytes, and one message holds {MESSAGE_MAX}: use {stream} or a filter"
        )));
    }
    Ok(Response::new(list))
}

/// A streamed list: every item once, in messages of bounded length, none of them empty. Items are made as they are read: a client that does not
/// read holds what `items` does, which had better not be the items.
pub(super) fn streamed<T: Message + 'static, M: Send + 'static>(
    items: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Streamed<M> {
    let mut items = items.into_iter().peekable();
    let chunks = std::iter::from_fn(move || {
        let (mut chunk, mut bytes) = (Vec::new(), 0_usize);
        while let Some(item) = items.next_if(|item| {
            bytes = bytes.saturating_add(item.encoded_len());
            chunk.is_empty() || (chunk.len() < CHUNK && bytes <= CHUNK_BYTES)
        }) {
            chunk.push(item);
        }
        (!chunk.is_empty()).then(|| Ok(message(chunk)))
    });
    Box::pin(tokio_stream::iter(chunks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use davit_proto::cri::{Image, ListImagesResponse};
    use tokio_stream::StreamExt as _;

    fn image(id: &str) -> Image {
        Image { id: id.to_owned(), ..Image::default() }
    }

    async fn lengths(items: Vec<Image>) -> Vec<usize> {
        let chunks = streamed(items, |images| images.len());
        chunks.map(|chunk| chunk.unwrap()).collect().await
    }

    #[tokio::test]
    async fn a_stream_is_cut_by_count_and_by_length() {
        assert!(lengths(Vec::new()).await.is_empty());
        assert_eq!(lengths(vec![image("a"); CHUNK * 2 + 1]).await, [CHUNK, CHUNK, 1]);
        let large = image(&"x".repeat(CHUNK_BYTES / 2 - 100));
        let huge = image(&"x".repeat(CHUNK_BYTES * 2));
        let items = vec![large.clone(), large.clone(), large.clone(), huge.clone(), huge, large];
        assert_eq!(lengths(items).await, [2, 1, 1, 1, 1]);
    }

    #[test]
    fn a_list_that_no_message_holds_names_its_stream() {
        let images = vec![image(&"x".repeat(MESSAGE_MAX / 2)); 2];
        let refused = whole(ListImagesResponse { images }, "StreamImages").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("StreamImages"), "{}", refused.message());
        assert!(whole(ListImagesResponse { images: vec![image("a")] }, "StreamImages").is_ok());
    }
}
