//! Capabilities and ContentAddressableStorage.

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction, MAX_BATCH, MAX_MESSAGE};
use prost::Message;
use tonic::Code;

use crate::harness::{F, Site, soon};

const ZSTD: i32 = re::compressor::Value::Zstd as i32;

fn entry(digest: Digest, data: Vec<u8>, compressor: i32) -> re::batch_update_blobs_request::Request {
    re::batch_update_blobs_request::Request { digest: Some(digest.to_wire()), data, compressor }
}

fn update(requests: Vec<re::batch_update_blobs_request::Request>) -> re::BatchUpdateBlobsRequest {
    re::BatchUpdateBlobsRequest { requests, digest_function: F.to_wire(), ..Default::default() }
}

fn read(digests: &[Digest], compressors: Vec<i32>) -> re::BatchReadBlobsRequest {
    re::BatchReadBlobsRequest {
        digests: digests.iter().map(Digest::to_wire).collect(),
        acceptable_compressors: compressors,
        digest_function: F.to_wire(),
        ..Default::default()
    }
}

fn find(digests: Vec<re::Digest>, function: i32) -> re::FindMissingBlobsRequest {
    re::FindMissingBlobsRequest {
        instance_name: "a/b".into(),
        blob_digests: digests,
        digest_function: function,
    }
}

#[tokio::test]
async fn capabilities_say_what_is_served() {
    let site = Site::start().await;
    let mut client = re::capabilities_client::CapabilitiesClient::new(site.channel.clone());
    let request = re::GetCapabilitiesRequest { instance_name: "team/main".into() };
    let all = client.get_capabilities(request).await.unwrap().into_inner();
    let (low, high) = (all.low_api_version.unwrap(), all.high_api_version.unwrap());
    assert_eq!((low.major, low.minor, high.major, high.minor), (2, 0, 2, 11));
    let cache = all.cache_capabilities.unwrap();
    assert_eq!(cache.digest_functions, [1, 9]);
    assert_eq!(cache.max_batch_total_size_bytes, MAX_BATCH as i64);
    assert_eq!(cache.supported_compressors, [ZSTD]);
    assert_eq!(cache.supported_batch_update_compressors, [ZSTD]);
    assert_eq!(cache.symlink_absolute_path_strategy(), re::symlink_absolute_path_strategy::Value::Allowed);
    assert!(!cache.action_cache_update_capabilities.unwrap().update_enabled);
    assert!(all.execution_capabilities.unwrap().exec_enabled);
    let request = re::GetCapabilitiesRequest { instance_name: "a//b".into() };
    let refused = client.get_capabilities(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    site.stop().await;
}

#[tokio::test]
async fn missing_blobs_are_found_once_each_and_the_empty_one_is_always_there() {
    let site = Site::start().await;
    let here = site.put(b"here").await;
    let (gone, empty) = (F.digest(b"gone"), F.digest(b""));
    let asked = [here, gone, empty, gone].iter().map(Digest::to_wire).collect();
    let answer = site.cas().find_missing_blobs(find(asked, F.to_wire())).await.unwrap().into_inner();
    assert_eq!(answer.missing_blob_digests, [gone.to_wire()]);
    // The same bytes under the other function are another blob; and the default function is SHA-256.
    let asked = vec![DigestFunction::Sha256.digest(b"here").to_wire()];
    let answer = site.cas().find_missing_blobs(find(asked.clone(), 0)).await.unwrap().into_inner();
    assert_eq!(answer.missing_blob_digests, asked);
    site.stop().await;
}

#[tokio::test]
async fn bad_digests_and_functions_are_refused_in_a_sentence() {
    let site = Site::start().await;
    let good = F.digest(b"x").to_wire();
    for (digest, function, part) in [
        (re::Digest { hash: "abc".into(), ..good.clone() }, 9, "hexadecimal"),
        (re::Digest { hash: good.hash.to_uppercase(), ..good.clone() }, 9, "hexadecimal"),
        (re::Digest { size_bytes: -1, ..good.clone() }, 9, "negative"),
        (good.clone(), 3, "digest function 3 is not supported"),
        (good.clone(), 77, "digest function 77 is not supported"),
    ] {
        let refused = site.cas().find_missing_blobs(find(vec![digest], function)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    site.stop().await;
}

#[tokio::test]
async fn each_blob_of_a_batch_has_its_own_status() {
    let site = Site::start().await;
    let text = "compressible ".repeat(1000).into_bytes();
    let packed = zstd::bulk::compress(&text, 1).unwrap();
    let [a, b, c, d, e] = [&b"a"[..], b"b", b"c", &text, b"e"].map(|data| F.digest(data));
    let small = Digest { size: 10, ..d };
    let requests = vec![
        entry(a, b"a".to_vec(), 0),
        entry(b, b"not b".to_vec(), 0),
        entry(c, b"no zstd".to_vec(), ZSTD),
        entry(d, packed.clone(), ZSTD),
        entry(e, b"e".to_vec(), re::compressor::Value::Brotli as i32),
        entry(small, packed, ZSTD),
    ];
    let answer = site.cas().batch_update_blobs(update(requests)).await.unwrap().into_inner();
    let codes: Vec<_> =
        answer.responses.iter().map(|one| Code::from(one.status.as_ref().unwrap().code)).collect();
    let bad = Code::InvalidArgument;
    assert_eq!(codes, [Code::Ok, bad, bad, Code::Ok, bad, bad]);

    let answer = site.cas().batch_read_blobs(read(&[a, b, d], vec![])).await.unwrap().into_inner();
    let [a, b, d] = &answer.responses[..] else { panic!("{answer:?}") };
    assert_eq!((a.data.as_slice(), a.status.as_ref().unwrap().code), (&b"a"[..], 0));
    assert_eq!(b.status.as_ref().unwrap().code, Code::NotFound as i32);
    assert_eq!((d.data == text, d.compressor), (true, 0));
    site.stop().await;
}

#[tokio::test]
async fn batches_are_compressed_where_that_is_accepted_and_gains() {
    let site = Site::start().await;
    let text = "compressible ".repeat(1000).into_bytes();
    let noise: Vec<u8> = (0..200u32).flat_map(|i| F.digest(&i.to_le_bytes()).hash).collect();
    let digests = [site.put(&text).await, site.put(b"small").await, site.put(&noise).await];
    let answer = site.cas().batch_read_blobs(read(&digests, vec![ZSTD])).await.unwrap().into_inner();
    let compressors: Vec<_> = answer.responses.iter().map(|one| one.compressor).collect();
    assert_eq!(compressors, [ZSTD, 0, 0]);
    assert_eq!(zstd::decode_all(answer.responses[0].data.as_slice()).unwrap(), text);
    assert_eq!(answer.responses[2].data, noise);
    site.stop().await;
}

#[tokio::test]
async fn batches_beyond_the_limit_are_refused_whole() {
    let site = Site::start().await;
    let data = vec![7; MAX_BATCH + 1];
    let digest = F.digest(&data);
    let refused = site.cas().batch_update_blobs(update(vec![entry(digest, data, 0)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("ByteStream"), "{}", refused.message());
    let refused = site.cas().batch_read_blobs(read(&[digest], vec![])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    // A small message that would swell.
    let large = Digest { size: i64::MAX as u64, ..digest };
    let swelling = vec![entry(large, b"x".to_vec(), ZSTD), entry(large, b"x".to_vec(), ZSTD)];
    let refused = site.cas().batch_update_blobs(update(swelling)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    // Beyond the message limit gRPC itself refuses, in words of its own.
    let data = vec![7; MAX_MESSAGE + 1];
    let refused = site.cas().batch_update_blobs(update(vec![entry(digest, data, 0)])).await.unwrap_err();
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused:?}");
    site.stop().await;
}

fn directory(children: &[(&str, Digest)]) -> re::Directory {
    let nodes = children
        .iter()
        .map(|(name, digest)| re::DirectoryNode { name: name.to_string(), digest: Some(digest.to_wire()) });
    re::Directory { directories: nodes.collect(), ..Default::default() }
}

fn get_tree(root: Digest, page_size: i32, token: &str) -> re::GetTreeRequest {
    re::GetTreeRequest {
        root_digest: Some(root.to_wire()),
        page_size,
        page_token: token.into(),
        digest_function: F.to_wire(),
        ..Default::default()
    }
}

async fn pages(site: &Site, request: re::GetTreeRequest) -> Vec<re::GetTreeResponse> {
    let mut stream = soon(site.cas().get_tree(request)).await.unwrap().into_inner();
    let mut pages = Vec::new();
    while let Some(page) = soon(stream.message()).await.unwrap() {
        pages.push(page);
    }
    pages
}

#[tokio::test]
async fn trees_come_in_pages_that_can_be_resumed() {
    let site = Site::start().await;
    let leaf = site.put_message(&directory(&[])).await;
    let mut row = Vec::new();
    for i in 0..5 {
        let inner = re::Directory {
            symlinks: vec![re::SymlinkNode {
                name: "l".into(),
                target: format!("/{i}"),
                ..Default::default()
            }],
            ..directory(&[("leaf", leaf)])
        };
        row.push((format!("d{i}"), site.put_message(&inner).await));
    }
    let absent = F.digest(b"never uploaded");
    let mut children: Vec<_> = row.iter().map(|(name, digest)| (name.as_str(), *digest)).collect();
    children.push(("absent", absent));
    let root = site.put_message(&directory(&children)).await;
    // Root, five, one leaf that they share; the absent one is left out.
    let all = pages(&site, get_tree(root, 3, "")).await;
    let sizes: Vec<_> = all.iter().map(|page| page.directories.len()).collect();
    assert_eq!(sizes, [3, 3, 1]);
    assert_eq!(all[2].next_page_token, "");
    let rest = pages(&site, get_tree(root, 3, &all[0].next_page_token)).await;
    assert_eq!(rest, all[1..]);
    let whole = pages(&site, get_tree(root, 0, "")).await;
    assert_eq!(whole.len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn tree_requests_that_make_no_sense_are_refused() {
    let site = Site::start().await;
    let root = site.put_message(&directory(&[])).await;
    let no_tree = site.put(b"\xff\xff not a directory").await;
    let climbing = site.put_message(&directory(&[("..", root)])).await;
    let twice = site.put_message(&directory(&[("a", root), ("a", root)])).await;
    for (request, code) in [
        (get_tree(F.digest(b"absent"), 0, ""), Code::NotFound),
        (get_tree(no_tree, 0, ""), Code::InvalidArgument),
        (get_tree(climbing, 0, ""), Code::InvalidArgument),
        (get_tree(twice, 0, ""), Code::InvalidArgument),
        (get_tree(root, -1, ""), Code::InvalidArgument),
        (get_tree(root, 0, "nonsense"), Code::InvalidArgument),
        (re::GetTreeRequest::default(), Code::InvalidArgument),
    ] {
        let refused = site.cas().get_tree(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    site.stop().await;
}

#[tokio::test]
async fn a_tree_that_folds_out_to_a_billion_paths_costs_its_distinct_directories() {
    let site = Site::start().await;
    let mut digest = site.put_message(&directory(&[])).await;
    for _ in 0..30 {
        digest = site.put_message(&directory(&[("a", digest), ("b", digest)])).await;
    }
    let all = pages(&site, get_tree(digest, 0, "")).await;
    assert_eq!(all[0].directories.len(), 31);
    // As an action's inputs nobody could lay it out.
    let action = site.action(|action, _| action.input_root_digest = Some(digest.to_wire())).await;
    let refused = site.execution().execute(crate::harness::execute_request(action)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("paths"), "{}", refused.message());
    assert!(re::Directory::default().encode_to_vec().is_empty());
    site.stop().await;
}
