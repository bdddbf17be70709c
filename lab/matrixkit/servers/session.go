// The server of session_client.py in Go.
package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"hash/crc32"
	"log"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

var memory [512][]byte // 32 MiB

func crc() uint32 {
	var value uint32
	for _, block := range memory {
		value = crc32.Update(value, crc32.IEEETable, block)
	}
	return value
}

type client struct {
	lock sync.Mutex // writes of two goroutines
	conn net.Conn
}

func (c *client) say(format string, values ...any) error {
	c.lock.Lock()
	defer c.lock.Unlock()
	_, err := fmt.Fprintf(c.conn, format+"\n", values...)
	return err
}

func (c *client) tick(done chan struct{}) {
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for number := 1; ; number++ {
		select {
		case <-every.C:
			if c.say("tick %d", number) != nil {
				return
			}
		case <-done:
			return
		}
	}
}

func (c *client) serve() {
	defer c.conn.Close()
	token := rand.Text()
	total := 0
	done := make(chan struct{})
	defer close(done)
	c.say("%s", token)
	go c.tick(done)
	lines := bufio.NewScanner(c.conn)
	for lines.Scan() {
		word, value, _ := strings.Cut(lines.Text(), " ")
		if word == "add" {
			number, _ := strconv.Atoi(value)
			total += number
			c.say("sum %d %s", total, token)
		} else {
			c.say("memory %08x", crc())
		}
	}
}

func main() {
	for i := range memory {
		memory[i] = make([]byte, 1<<16)
		rand.Read(memory[i])
	}
	listener, err := net.Listen("tcp", ":7000")
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go (&client{conn: conn}).serve()
	}
}
