<?php
// A shop's plans.
$url = parse_url(getenv('DATABASE_URL'));
$database = new PDO("pgsql:host={$url['host']};dbname=" . ltrim($url['path'], '/'), $url['user'], $url['pass']);
header('Content-Type: application/json');
echo json_encode($database->query('SELECT name, cents FROM plans ORDER BY name')->fetchAll(PDO::FETCH_KEY_PAIR)), "\n";
