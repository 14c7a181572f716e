package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/moby/spdystream/spdy"
)

const (
	// What a data frame holds. Frames of 16 to 128 KiB make no difference to the client.
	piece = 32 * 1024
	// Frames of the bare peer that the kernel is given at once.
	batch  = 32
	status = `{"metadata":{},"status":"Success"}`
)

// The speed of the client library itself: its other side is not davit but frames that were made before, or a reader that looks at
// no more than frames' heads.
func limit(kind, direction, bytes string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	var count int64
	if _, err := fmt.Sscan(bytes, &count); err != nil {
		return err
	}
	if count%(piece*batch) != 0 {
		return fmt.Errorf("%d bytes are not a multiple of %d", count, piece*batch)
	}
	go func() {
		if err := bare(listener, kind, direction, count); err != nil {
			fmt.Fprintln(os.Stderr, "the bare peer:", err)
		}
	}()
	return command(kind, "http://"+listener.Addr().String()+"/", direction, bytes)
}

func bare(listener net.Listener, kind, direction string, count int64) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 256*1024)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return err
	}
	if kind == "spdy" {
		return bareSpdy(conn, reader, direction, count)
	}
	return bareWebsocket(conn, reader, request, direction, count)
}

// The streams of a command: error, then standard input and output, then standard error.
func bareSpdy(conn net.Conn, reader *bufio.Reader, direction string, count int64) error {
	const head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		return err
	}
	framer, err := spdy.NewFramer(conn, reader)
	if err != nil {
		return err
	}
	kinds := []string{"error", "stdout", "stderr"}
	if direction == "in" {
		kinds = append(kinds, "stdin")
	}
	ids := map[string]spdy.StreamId{}
	for len(ids) < len(kinds) {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		if opened, ok := frame.(*spdy.SynStreamFrame); ok {
			ids[opened.Headers.Get("streamtype")] = opened.StreamId
			if err := framer.WriteFrame(&spdy.SynReplyFrame{StreamId: opened.StreamId, Headers: http.Header{}}); err != nil {
				return err
			}
		}
	}
	if direction == "in" {
		err = skipSpdy(reader, ids["stdin"])
	} else {
		head := make([]byte, 8)
		binary.BigEndian.PutUint32(head, uint32(ids["stdout"]))
		binary.BigEndian.PutUint32(head[4:], piece)
		err = pour(conn, head, piece, count)
	}
	for _, kind := range kinds {
		data := &spdy.DataFrame{StreamId: ids[kind], Flags: spdy.DataFlagFin}
		if kind == "error" {
			data.Data = []byte(status)
		}
		if err == nil {
			err = framer.WriteFrame(data)
		}
	}
	if err == nil {
		// The client closes first.
		_, err = io.Copy(io.Discard, reader)
	}
	return err
}

// Reads frames until the last one of this stream.
func skipSpdy(reader *bufio.Reader, id spdy.StreamId) error {
	head := make([]byte, 8)
	for {
		if _, err := io.ReadFull(reader, head); err != nil {
			return err
		}
		length := binary.BigEndian.Uint32(head[4:]) & 0xffffff
		if _, err := reader.Discard(int(length)); err != nil {
			return err
		}
		if binary.BigEndian.Uint32(head) == uint32(id) && head[4]&byte(spdy.DataFlagFin) != 0 {
			return nil
		}
	}
}

func bareWebsocket(conn net.Conn, reader *bufio.Reader, request *http.Request, direction string, count int64) error {
	sum := sha1.Sum([]byte(request.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:])); err != nil {
		return err
	}
	var err error
	if direction == "in" {
		err = skipWebsocket(reader)
	} else {
		head := append([]byte{0x82, 127}, make([]byte, 9)...)
		binary.BigEndian.PutUint64(head[2:], piece+1)
		head[10] = 1
		err = pour(conn, head, piece, count)
	}
	if err != nil {
		return err
	}
	end := append([]byte{0x82, byte(len(status) + 1), 3}, status...)
	if _, err := conn.Write(append(end, 0x88, 2, 3, 232)); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, reader)
	return err
}

// Reads messages until the one that closes a channel: 255, then the channel.
func skipWebsocket(reader *bufio.Reader) error {
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(reader, head); err != nil {
			return err
		}
		length := uint64(head[1] & 0x7f)
		if more := map[uint64]int{126: 2, 127: 8}[length]; more != 0 {
			wide := make([]byte, 8)
			if _, err := io.ReadFull(reader, wide[8-more:]); err != nil {
				return err
			}
			length = binary.BigEndian.Uint64(wide)
		}
		// The mask, and the first byte below it.
		first, err := reader.Peek(5)
		if err != nil {
			return err
		}
		closes := head[0]&0x0f == 2 && length == 2 && first[0]^first[4] == 255
		if _, err := reader.Discard(4 + int(length)); err != nil {
			return err
		}
		if closes {
			return nil
		}
	}
}

// Writes frames of this head and zeros.
func pour(conn net.Conn, head []byte, size int, count int64) error {
	frames := []byte{}
	for range batch {
		frames = append(append(frames, head...), make([]byte, size)...)
	}
	for left := count; left > 0; left -= int64(size * batch) {
		if _, err := conn.Write(frames); err != nil {
			return err
		}
	}
	return nil
}
