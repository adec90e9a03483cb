package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// backupPiece is how much of a backup is handed over at a time, in bytes.
const backupPiece = 1 << 20

// Backup implements Control.
func (k *keeper) Backup(ctx context.Context, write func([]byte) error) error {
	w := bufio.NewWriterSize(pieces(write), backupPiece)
	return errors.Join(k.store.Backup(ctx, w, nil), w.Flush())
}

// pieces is a func as an io.Writer.
type pieces func([]byte) error

func (f pieces) Write(p []byte) (int, error) {
	if err := f(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// endTrailer follows a backup on the control socket, which is bytes as they are and
// no frames: quoted, it is empty or the error. Without it the backup was cut off.
const endTrailer = "Meshproxy-End"

func serveBackup(c Control) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", endTrailer)
		err := c.Backup(r.Context(), func(piece []byte) error {
			_, err := w.Write(piece)
			return err
		})
		end := ""
		if err != nil {
			end = err.Error()
		}
		w.Header().Set(endTrailer, strconv.Quote(end))
	}
}

// Backup implements Control.
func (c *Client) Backup(ctx context.Context, write func([]byte) error) error {
	resp, err := c.post(ctx, "backup", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{pieces(write)}, resp.Body, make([]byte, backupPiece)); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	end, err := strconv.Unquote(resp.Trailer.Get(endTrailer))
	if err != nil {
		return errors.New("the running node broke off the backup")
	}
	if end != "" {
		return errors.New(end)
	}
	return nil
}
