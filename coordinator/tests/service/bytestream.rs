//! ByteStream: reads and writes, plain and compressed, resumed and refused.

use dbuild_proto::reapi::google::bytestream as bs;
use dbuild_proto::{Digest, DigestFunction};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::harness::{F, Site, soon};

fn text() -> Vec<u8> {
    (0..60_000u32).flat_map(|i| format!("line {i}\n").into_bytes()).collect()
}

fn upload(digest: Digest) -> String {
    format!("team/main/uploads/0f5a/blobs/blake3/{digest}")
}

fn packed_upload(digest: Digest) -> String {
    format!("uploads/0f5a/compressed-blobs/zstd/blake3/{digest}")
}

fn query(name: &str) -> bs::QueryWriteStatusRequest {
    bs::QueryWriteStatusRequest { resource_name: name.into() }
}

/// The messages of an upload of `data` that starts at `offset`, the last one marked.
fn messages(name: &str, data: &[u8], offset: i64) -> Vec<bs::WriteRequest> {
    let mut at = offset;
    let mut all: Vec<_> = data
        .chunks(100_000)
        .map(|piece| {
            let request = bs::WriteRequest {
                resource_name: if at == offset { name.into() } else { String::new() },
                write_offset: at,
                finish_write: false,
                data: piece.to_vec(),
            };
            at += piece.len() as i64;
            request
        })
        .collect();
    all.last_mut().unwrap().finish_write = true;
    all
}

async fn write(site: &Site, messages: Vec<bs::WriteRequest>) -> Result<i64, Status> {
    let answer = soon(site.bytes().write(tokio_stream::iter(messages))).await?;
    Ok(answer.into_inner().committed_size)
}

async fn read(site: &Site, name: String, offset: i64, limit: i64) -> Result<Vec<u8>, Status> {
    let request = bs::ReadRequest { resource_name: name, read_offset: offset, read_limit: limit };
    let mut stream = soon(site.bytes().read(request)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(piece) = soon(stream.message()).await? {
        all.extend(piece.data);
    }
    Ok(all)
}

#[tokio::test]
async fn plain_blobs_go_in_and_come_out_in_any_part() {
    let site = Site::start().await;
    let data = text();
    let digest = F.digest(&data);
    assert_eq!(write(&site, messages(&upload(digest), &data, 0)).await.unwrap(), data.len() as i64);
    let name = format!("blobs/blake3/{digest}");
    assert!(read(&site, name.clone(), 0, 0).await.unwrap() == data);
    assert_eq!(read(&site, name.clone(), 5, 7).await.unwrap(), &data[5..12]);
    assert_eq!(read(&site, name.clone(), data.len() as i64 - 3, 0).await.unwrap(), &data[data.len() - 3..]);
    assert_eq!(read(&site, name.clone(), data.len() as i64, 0).await.unwrap(), b"");
    assert_eq!(read(&site, format!("x/blobs/blake3/{}", F.digest(b"")), 0, 0).await.unwrap(), b"");
    for (offset, limit, code) in [
        (-1, 0, Code::OutOfRange),
        (data.len() as i64 + 1, 0, Code::OutOfRange),
        (0, -1, Code::InvalidArgument),
    ] {
        assert_eq!(read(&site, name.clone(), offset, limit).await.unwrap_err().code(), code);
    }
    site.stop().await;
}

#[tokio::test]
async fn sha256_names_no_function() {
    let site = Site::start().await;
    let digest = DigestFunction::Sha256.digest(b"for bazel");
    let name = format!("uploads/u/blobs/{digest}");
    assert_eq!(write(&site, messages(&name, b"for bazel", 0)).await.unwrap(), 9);
    assert_eq!(read(&site, format!("blobs/{digest}"), 0, 0).await.unwrap(), b"for bazel");
    assert_eq!(read(&site, format!("blobs/blake3/{digest}"), 0, 0).await.unwrap_err().code(), Code::NotFound);
    site.stop().await;
}

#[tokio::test]
async fn compressed_blobs_go_in_and_come_out() {
    let site = Site::start().await;
    let data = text();
    let digest = F.digest(&data);
    let packed = zstd::bulk::compress(&data, 3).unwrap();
    let size = packed.len() as i64;
    assert_eq!(write(&site, messages(&packed_upload(digest), &packed, 0)).await.unwrap(), size);
    // It is there now: -1 for a compressed upload, the plain size for a plain one.
    assert_eq!(write(&site, messages(&packed_upload(digest), &packed, 0)).await.unwrap(), -1);
    assert_eq!(write(&site, messages(&upload(digest), &data, 0)).await.unwrap(), data.len() as i64);
    let name = format!("compressed-blobs/zstd/blake3/{digest}");
    for offset in [0, 12_345] {
        let stream = read(&site, name.clone(), offset, 0).await.unwrap();
        assert!(stream.len() < data.len() / 2);
        assert!(zstd::decode_all(stream.as_slice()).unwrap() == data[offset as usize..]);
    }
    assert_eq!(read(&site, name, 0, 10).await.unwrap_err().code(), Code::InvalidArgument);
    let small = site.put(b"small").await;
    let stream = read(&site, format!("compressed-blobs/zstd/blake3/{small}"), 0, 0).await.unwrap();
    assert_eq!(zstd::decode_all(stream.as_slice()).unwrap(), b"small");
    site.stop().await;
}

#[tokio::test]
async fn an_upload_that_broke_off_is_resumed_where_it_was() {
    let site = Site::start().await;
    let data = text();
    let digest = F.digest(&data);
    let name = upload(digest);
    let half = data.len() / 2;
    let status = site.bytes().query_write_status(query(&name)).await.unwrap().into_inner();
    assert_eq!((status.committed_size, status.complete), (0, false));
    // The connection's end without finish_write: nothing is complete, nothing is lost.
    let mut first = messages(&name, &data[..half], 0);
    first.last_mut().unwrap().finish_write = false;
    assert_eq!(write(&site, first).await.unwrap(), half as i64);
    let status = site.bytes().query_write_status(query(&name)).await.unwrap().into_inner();
    assert_eq!((status.committed_size, status.complete), (half as i64, false));
    let wrong = write(&site, messages(&name, &data[half - 1..], half as i64 - 1)).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains(&half.to_string()), "{}", wrong.message());
    let end = write(&site, messages(&name, &data[half..], half as i64)).await.unwrap();
    assert_eq!(end, data.len() as i64);
    let status = site.bytes().query_write_status(query(&name)).await.unwrap().into_inner();
    assert_eq!((status.committed_size, status.complete), (data.len() as i64, true));
    assert!(read(&site, format!("blobs/blake3/{digest}"), 0, 0).await.unwrap() == data);
    site.stop().await;
}

#[tokio::test]
async fn an_upload_whose_call_is_cut_is_kept_too() {
    let site = Site::start().await;
    let data = text();
    let name = upload(F.digest(&data));
    let (sender, receiver) = mpsc::channel(1);
    let mut client = site.bytes();
    let call = tokio::spawn(async move { client.write(ReceiverStream::new(receiver)).await });
    let mut pieces = messages(&name, &data, 0).into_iter();
    sender.send(pieces.next().unwrap()).await.unwrap();
    let committed = loop {
        let status = soon(site.bytes().query_write_status(query(&name))).await.unwrap().into_inner();
        if status.committed_size > 0 {
            break status.committed_size;
        }
        tokio::task::yield_now().await;
    };
    call.abort();
    let _ = call.await;
    drop(sender);
    // The server may hear of the cut a little later; until then it says that the upload is being written.
    let end = loop {
        match write(&site, messages(&name, &data[committed as usize..], committed)).await {
            Ok(end) => break end,
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument),
        }
    };
    assert_eq!(end, data.len() as i64);
    site.stop().await;
}

#[tokio::test]
async fn a_blob_that_is_there_ends_its_upload_early() {
    let site = Site::start().await;
    let digest = site.put(b"known").await;
    let (sender, receiver) = mpsc::channel(1);
    let first =
        bs::WriteRequest { resource_name: upload(digest), data: b"kn".to_vec(), ..Default::default() };
    sender.send(first).await.unwrap();
    // The request stream stays open; the answer does not wait for it.
    let answer = soon(site.bytes().write(ReceiverStream::new(receiver))).await.unwrap();
    assert_eq!(answer.into_inner().committed_size, 5);
    drop(sender);
    site.stop().await;
}

#[tokio::test]
async fn uploads_that_lie_are_refused_and_leave_nothing() {
    let site = Site::start().await;
    let digest = F.digest(b"right");
    let name = upload(digest);
    let packed = packed_upload(digest);
    let bad = Code::InvalidArgument;
    let one = |name: &str, data: &[u8]| messages(name, data, 0);
    let mut renamed = messages(&name, &[0; 150_000], 0);
    renamed[1].resource_name = upload(F.digest(b"other"));
    let mut jumping = messages(&upload(Digest { size: 150_000, ..digest }), &[0; 150_000], 0);
    jumping[1].write_offset += 1;
    let huge = Digest { size: 1 << 40, ..digest };
    for (what, messages, code) in [
        ("wrong bytes", one(&name, b"wrong"), bad),
        ("too few", one(&name, b"rig"), bad),
        ("too many", one(&name, b"right and more"), bad),
        ("no zstd", one(&packed, b"right"), bad),
        ("cut zstd", one(&packed, &zstd::bulk::compress(b"right", 1).unwrap()[..9]), bad),
        ("too much zstd", one(&packed, &zstd::bulk::compress(&[b'r'; 100_000], 1).unwrap()), bad),
        ("other zstd", one(&packed, &zstd::bulk::compress(b"wrong", 1).unwrap()), bad),
        ("renamed", renamed, bad),
        ("jumping", jumping, bad),
        ("negative", messages(&name, b"right", -1), bad),
        ("from nowhere", messages(&name, b"ht", 3), bad),
        ("not a name", one("uploads/x", b"right"), bad),
        ("not for writing", one(&format!("blobs/blake3/{digest}"), b"right"), bad),
        ("huge", one(&upload(huge), b"right"), Code::ResourceExhausted),
        ("nothing", Vec::new(), bad),
    ] {
        let refused = write(&site, messages).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        assert!(!refused.message().is_empty());
    }
    let status = site.bytes().query_write_status(query(&name)).await.unwrap().into_inner();
    assert_eq!((status.committed_size, status.complete), (0, false));
    let gone = read(&site, format!("blobs/blake3/{digest}"), 0, 0).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let bad_name = read(&site, "blobs/blake3/xyz/1".into(), 0, 0).await.unwrap_err();
    assert_eq!(bad_name.code(), Code::InvalidArgument);
    site.stop().await;
}
