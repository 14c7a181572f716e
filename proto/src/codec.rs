//! How messages are encoded and decoded: as prost does, in buffers that begin small.
//!
//! tonic's begin with 8 KiB for each call's each direction, and a stream keeps its own for as long as it lasts: a daemon has one open to each pod's shim.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What a buffer begins with and grows by at least, in bytes: most messages fit.
const FIRST: usize = 1024;
/// How much is put together before it is sent: tonic's own figure.
const YIELD: usize = 32 * 1024;

/// The codec of the generated services.
#[derive(Debug)]
pub struct Small<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Small<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Small<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(FIRST, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(FIRST, YIELD))
    }
}
